"""Registering launchers of Triton kernels as PyTorch ops, and running ops: with autograd only where a backward pass can
follow, and refusing derivatives that are not implemented."""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("fastmux", "FRAGMENT")


def kernel_op(module: str, prepare: Callable[..., tuple] | None = None) -> Callable[[Callable], Callable]:
    """Registers a launcher of ``fastmux.kernels.<module>`` as an op ``fastmux::<name>`` and returns the op. The
    launcher is the one with the decorated function's name.

    The decorated function describes the op. Its annotations are the op's schema, of which a named tuple stands for its
    fields: the op takes them one by one, the function gets the named tuple and the launcher a plain tuple. The
    function's body returns tensors that look like the op's results, computed from tensors without data.

    The op refuses forward-mode derivatives, which PyTorch would take for 0. Launchers are imported when they are first
    needed, so nothing here needs Triton. They run with autocast off, so that forward and backward compute the same.

    `torch.library.custom_op` would do the same, but its checks take longer on the host than the rest of a launch.

    Args:
        module: The name of the launcher's module.
        prepare: Maps the op's arguments to the launcher's, where they differ. It gets real tensors, at each call.

    Example:
        >>> import torch
        >>> from fastmux.functional._ops import kernel_op
        >>> @kernel_op("hadamard_mux")
        ... def hadamard_mux_twice(x: torch.Tensor, scale: float) -> torch.Tensor:
        ...     return x.new_empty(x.shape)
        >>> torch.ops.fastmux.hadamard_mux_twice.default._schema
        fastmux::hadamard_mux_twice(Tensor x, float scale) -> Tensor
    """

    def register(fake: Callable) -> Callable:
        name = fake.__name__

        @functools.cache
        def launcher() -> Callable:
            return getattr(importlib.import_module(f"fastmux.kernels.{module}"), name)

        parts, flat_fake = _flat(fake)

        def launch(*arguments):
            device = arguments[0].device.type
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return launch(*arguments)
            given = arguments if parts is None else [arguments[part] for part in parts]
            return launcher()(*(given if prepare is None else prepare(*given)))

        schema = torch.library.infer_schema(flat_fake, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, launch, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastmux::{name}", flat_fake, lib=_LIBRARY)
        op = getattr(torch.ops.fastmux, name).default

        @functools.wraps(fake)
        def call(*arguments):
            if forward_ad._current_level >= 0:
                _refuse_tangents(name, arguments)
            return op(*arguments)

        return call

    return register


def _flat(function: Callable) -> tuple[list[int | slice] | None, Callable]:
    """Replaces each named tuple among a function's parameters by its fields.

    Returns:
        For each parameter, its index or its slice of the flat arguments; None if there is no named tuple.
        The function that takes the flat arguments.
    """
    kinds = typing.get_type_hints(function)
    returned = kinds.pop("return")
    parts: list[int | slice] = []
    flat_kinds: dict[str, type] = {}
    for name, kind in kinds.items():
        start = len(flat_kinds)
        flat_kinds |= typing.get_type_hints(kind) if hasattr(kind, "_fields") else {name: kind}
        parts.append(slice(start, len(flat_kinds)) if hasattr(kind, "_fields") else start)
    if len(flat_kinds) == len(kinds):
        return None, function

    def flat(*arguments):
        given = (arguments[part] for part in parts)
        return function(
            *(k._make(t) if hasattr(k, "_fields") else t for k, t in zip(kinds.values(), given, strict=True))
        )

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, positional, annotation=kind) for name, kind in flat_kinds.items()],
        return_annotation=returned,
    )
    return parts, flat


def _refuse_tangents(name: str, arguments: tuple) -> None:
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments):
        raise NotImplementedError(
            f"{name}: forward-mode derivatives (torch.func.jvp, torch.autograd.forward_ad) of the triton backend are "
            "not implemented; take them within fastmux.backend('torch')"
        )


def once_differentiable(backward: Callable) -> Callable:
    """Decorates a backward pass whose results cannot be differentiated again: an attempt raises an error.

    `torch.autograd.function.once_differentiable` does so for ``Tensor.backward`` only. `torch.autograd.grad` takes its
    results for constants and returns a gradient that lacks a term. The results here depend on all inputs and saved
    tensors of the function.
    """

    @functools.wraps(backward)
    def once(ctx, *gradients):
        with torch.no_grad():
            results = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        return _NotDifferentiable.apply(len(results), *results, *gradients, *ctx.saved_tensors)

    return once


class _NotDifferentiable(torch.autograd.Function):
    """Returns the first ``count`` tensors as results of all tensors. Its backward pass raises an error."""

    @staticmethod
    def forward(ctx, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx, *_: Tensor | None):
        raise NotImplementedError(
            "second derivatives of fastmux's ops are not implemented: backward ran with create_graph=True, and what it "
            "returned was differentiated; take them of fastmux.reference"
        )


def asked_for(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The result of `torch.autograd.Function.backward`: the gradients of the first inputs where needed, None for all
    others."""
    needs = ctx.needs_input_grad
    rest = (None,) * (len(needs) - len(gradients))
    return (*[t if need else None for t, need in zip(gradients, needs, strict=False)], *rest)


def needed(t: Tensor, need: bool) -> Tensor:
    """A tensor for a gradient of ``t``; an empty one if it is not needed, since an op cannot return None."""
    return t.new_empty(t.shape if need else (0,))


def needs_grad(*arguments) -> bool:
    """Whether a backward pass can follow. Arguments that are not tensors are ignored."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


def run(function: type[torch.autograd.Function], *arguments):
    """Runs ``function.apply(*arguments)`` or, where no backward pass can follow, only its forward. A call of autograd
    takes the host as long as the arithmetic of a small op. In a traced graph it is always ``apply``."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or needs_grad(*arguments):
        return function.apply(*arguments)
    return function.forward(_NoBackward(), *arguments)


class _NoBackward:
    """Takes the place of `torch.autograd.function.FunctionCtx` where no backward pass follows."""

    needs_input_grad = (False,) * 32

    def save_for_backward(self, *_: Tensor | None) -> None:
        pass
