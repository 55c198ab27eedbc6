"""How the launcher of a Triton kernel becomes an op that PyTorch knows, and how an op runs: with a backward pass where
one can follow, and refusing derivatives that nobody wrote."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("fastmux", "FRAGMENT")


def kernel_op(module: str, operands: Callable[..., tuple] | None = None) -> Callable[[Callable], Callable]:
    """Registers the launcher of ``fastmux.kernels.<module>`` that has the decorated function's name as an op
    ``fastmux::<name>``, and returns the op, refusing forward-mode derivatives: PyTorch would take them for 0.

    The decorated function is everything but the launcher: its annotations are the op's schema, the first of which is a
    tensor's, and its body says, from tensors without data, how the results look. Launchers are imported when they are
    first needed, so nothing here needs Triton; they run with autocast off, whatever surrounds them, and so do not
    compute one thing forward and another in backward.

    `torch.library.custom_op` would do the same at a price: its checks take longer than all else that a launch costs the
    host.

    Args:
        module: name of the launcher's module.
        operands: (arguments) -> what the launcher takes behind them, made from real tensors at each call.

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

        def launch(*arguments):
            given = arguments if operands is None else (*arguments, *operands(*arguments))
            device = arguments[0].device.type
            if not torch.is_autocast_enabled(device):
                return launcher()(*given)
            with torch.autocast(device, enabled=False):
                return launcher()(*given)

        schema = torch.library.infer_schema(fake, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, launch, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastmux::{name}", fake, lib=_LIBRARY)
        op = getattr(torch.ops.fastmux, name).default

        @functools.wraps(fake)
        def call(*arguments):
            if forward_ad._current_level >= 0:
                _refuse_tangents(name, arguments)
            return op(*arguments)

        return call

    return register


def _refuse_tangents(name: str, arguments: tuple) -> None:
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments):
        raise NotImplementedError(
            f"{name}: forward-mode derivatives (torch.func.jvp, torch.autograd.forward_ad) of the triton backend are "
            "not implemented; take them within fastmux.backend('torch')"
        )


def once_differentiable(backward: Callable) -> Callable:
    """Decorates a backward pass whose result must not be differentiated again: whoever tries gets an error.

    `torch.autograd.function.once_differentiable` promises the same, and keeps it for ``Tensor.backward`` alone: to
    `torch.autograd.grad` its results are constants, and what comes out lacks a summand. These depend on all that the
    function was given and has saved.
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
    """The first ``count`` tensors as they are, as results of all: no way back leads past the error."""

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
    """What `torch.autograd.Function.backward` returns: of the gradients of the first inputs those that are needed."""
    needs = ctx.needs_input_grad
    rest = (None,) * (len(needs) - len(gradients))
    return (*[t if need else None for t, need in zip(gradients, needs, strict=False)], *rest)


def needs_grad(*arguments) -> bool:
    """Whether backward can follow; what is not a tensor is passed over."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


def run(function: type[torch.autograd.Function], *arguments):
    """``function.apply(*arguments)``, or where no backward can follow its forward alone: a call of autograd takes the
    host as long as many an op's arithmetic. Who traces sees one graph with gradients and without."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or needs_grad(*arguments):
        return function.apply(*arguments)
    return function.forward(_NoBackward(), *arguments)


class _NoBackward:
    """Stands where `torch.autograd.function.FunctionCtx` stands."""

    needs_input_grad = (False,) * 32

    def save_for_backward(self, *_: Tensor | None) -> None:
        pass
