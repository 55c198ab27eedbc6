"""Holding an op to its specification: values and gradients, against float64, relative to the size of the answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# ||ours - gold|| / ||gold||. An op that is a chain of roundings may also be as wrong as the plain formula in its dtype.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = list(TOLERANCE)


def relative_error(ours: Tensor, gold: Tensor) -> float:
    """||ours - gold|| / ||gold||; NaN never passes a comparison."""
    gold = gold.double()
    scale = gold.norm()
    return float((ours.double().to(gold.device) - gold).norm() / (scale if scale > 0 else 1.0))


def run(op: Callable, inputs: dict[str, Tensor], dy: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """(output, gradient of each floating input, upstream gradient) of ``op(**inputs)``."""
    leaves = {k: t.detach().requires_grad_(t.is_floating_point()) for k, t in inputs.items()}
    y = op(**leaves)
    if dy is None:
        dy = torch.randn(y.shape, dtype=torch.float64)
    y.backward(dy.to(y))
    return y.detach(), {k: t.grad for k, t in leaves.items() if t.is_floating_point()}, dy


def assert_meets(
    op: Callable, reference: Callable, inputs: dict[str, Tensor], dtype: torch.dtype, device="cpu"
) -> None:
    """``op`` in ``dtype`` on ``device`` equals ``reference`` in float64 on the very same (rounded) inputs.

    inputs are float64 (or integer) CPU tensors; they are rounded to ``dtype`` first. Strides are kept.
    """
    rounded = {k: _cast(t, dtype) for k, t in inputs.items()}
    gold, gold_grads, dy = run(reference, {k: _cast(t, torch.float64) for k, t in rounded.items()})
    dy = dy.to(dtype).double()
    gold, gold_grads, _ = run(reference, {k: _cast(t, torch.float64) for k, t in rounded.items()}, dy)
    plain, plain_grads, _ = run(reference, rounded, dy)
    ours, grads, _ = run(op, {k: t.to(device) for k, t in rounded.items()}, dy)

    assert ours.shape == gold.shape, f"output has shape {tuple(ours.shape)}, the reference {tuple(gold.shape)}"
    assert ours.dtype == dtype, f"output has dtype {ours.dtype}, expected {dtype}"
    _check("output", ours, gold, plain, dtype)
    for name, gold_grad in gold_grads.items():
        assert grads[name].dtype == dtype, f"gradient of {name} has dtype {grads[name].dtype}, expected {dtype}"
        _check(f"gradient of {name}", grads[name], gold_grad, plain_grads[name], dtype)


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t`` in ``dtype`` with its strides: ``to`` makes overlapping and permuted tensors dense."""
    if not t.is_floating_point():
        return t
    base = torch.as_strided(t, (t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return torch.as_strided(base.to(dtype), t.shape, t.stride(), t.storage_offset())


def _check(what: str, ours: Tensor, gold: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    allowed = max(TOLERANCE[dtype], 2 * relative_error(plain, gold))
    error = relative_error(ours, gold)
    if not error <= allowed:
        difference = (ours.double().cpu() - gold).abs().nan_to_num(nan=float("inf"))
        at = torch.unravel_index(difference.argmax(), difference.shape) if difference.dim() else ()
        raise AssertionError(
            f"{what}: relative error {error:.2e}, allowed {allowed:.2e} in {dtype}; worst at {[int(i) for i in at]}: "
            f"ours {float(ours[at])}, plain {float(plain[at])}, float64 {float(gold[at])}"
        )


def layouts(t: Tensor) -> dict[str, Tensor]:
    """The same values under strides that callers have: sliced, transposed, a chunk of a wider tensor."""
    wide = torch.cat([t, torch.full_like(t, float("nan"))], dim=-1)
    sliced = wide[..., : t.shape[-1]]
    flipped = t.transpose(0, -2).contiguous().transpose(0, -2)
    every_other = torch.stack([t, torch.full_like(t, float("nan"))], dim=-1).flatten(-2)[..., ::2]
    return {"sliced": sliced, "transposed": flipped, "strided_columns": every_other}
