"""`walsh_hadamard_mux`: the sum of randomly rotated instances, in O(d log d). Kernel: kernels/walsh_hadamard_mux.py."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from fastmux.backends import choose_backend
from fastmux.functional._blocking import blocks
from fastmux.functional._checks import Shapes, check_floating
from fastmux.functional._ops import kernel_op, once_differentiable, run
from fastmux.functional.hadamard_matrices import MATRICES, ODD_PART, check_order, sylvester
from fastmux.functional.walsh_hadamard import transform
from fastmux.kernels.common.tensors import accumulator_dtype


def walsh_hadamard_mux(x: Tensor, inner_signs: Tensor, outer_signs: Tensor, *, scale: float | None = None) -> Tensor:
    """Multiplex N instances: ``y = scale * sum_i O_i x_i`` with ``O_i = H D_i H D'_i``, H the Hadamard matrix.

    The O_i are random orthogonal matrices, each of which takes O(d log d) operations and 2d signs. H is scaled to be
    orthonormal. It is the same on the left of all O_i, so N + 1 transforms suffice: ``y = scale * H sum_i D_i H D'_i
    x_i``.

    Args:
        x: The embeddings (G, N, L, d), of any strides and floating dtype; d = m * 2^k with m in {1, 12, 20, 28}.
        inner_signs, outer_signs: The diagonals of D'_i and D_i, (N, d), +1 or -1 in any dtype. They are fixed and get
            no gradient.
        scale: The factor of the sum. By default 1/sqrt(N), which keeps the variance of independent instances.

    Returns:
        (G, L, d) in the dtype of ``x``.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, d has another form, or signs require a gradient.

    Example:
        >>> import torch
        >>> from fastmux.functional import walsh_hadamard_mux
        >>> signs = torch.ones(1, 8, dtype=torch.int8)
        >>> walsh_hadamard_mux(torch.ones(3, 1, 5, 8), signs, signs)[0, 0]  # H H = 1 at order 8
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """
    op = "walsh_hadamard_mux"
    Shapes(op).bind(x=(x, "GNLd"), inner_signs=(inner_signs, "Nd"), outer_signs=(outer_signs, "Nd"))
    check_floating(op, x=x)
    check_order(op, "x", x.shape[-1])
    if x.shape[1] == 0:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected at least one instance (N >= 1)")
    for name, signs in (("inner_signs", inner_signs), ("outer_signs", outer_signs)):
        if signs.device != x.device:
            raise ValueError(f"{op}: {name} is on {signs.device}, expected {x.device}, where x is")
        if signs.requires_grad:
            raise ValueError(f"{op}: {name} requires a gradient, expected fixed signs; use orthogonal_mux to learn")
    if scale is None:
        scale = x.shape[1] ** -0.5
    return run(WalshHadamardMux, x, inner_signs, outer_signs, float(scale), choose_backend(x))


class WalshHadamardMux(torch.autograd.Function):
    """dx_i = scale * D'_i H^T D_i (H^T dy). All instances share H^T dy."""

    @staticmethod
    def forward(ctx, x: Tensor, inner: Tensor, outer: Tensor, scale: float, backend: str) -> Tensor:
        ctx.save_for_backward(inner, outer)
        ctx.scale, ctx.backend, ctx.x_dtype = scale, backend, x.dtype
        return _FORWARD[backend](x, inner, outer, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        inner, outer = ctx.saved_tensors
        return _DX[ctx.backend](dy, inner, outer, ctx.scale, ctx.x_dtype), None, None, None, None


@functools.lru_cache(maxsize=32)
def kernel_factors(
    width: int, transpose: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The two matrices that the kernel multiplies with, and their orders. They are copied to a device once. Only the
    registered ops call this, where tensors are real."""
    from fastmux.kernels.walsh_hadamard_mux import blocks, pad

    order = ODD_PART[width // (width & -width)]
    sides = blocks(width, order)
    left = torch.kron(MATRICES[order], sylvester(sides[0] // order))
    if dtype == torch.float32:
        dtype = torch.bfloat16  # the kernel splits rows into bfloat16 parts
    if dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1":
        dtype = torch.float32  # Triton's interpreter multiplies the bits of bfloat16 as integers
    like = torch.empty(0, dtype=dtype, device=device)
    return pad(left.mT if transpose else left, like), pad(sylvester(sides[1]), like), sides


@kernel_op("walsh_hadamard_mux", lambda x, *rest: (x, *rest, *kernel_factors(x.shape[-1], False, x.dtype, x.device)))
def walsh_hadamard_mux_forward(x: Tensor, inner: Tensor, outer: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:])


@kernel_op(
    "walsh_hadamard_mux", lambda dy, *rest: (dy, *rest, *kernel_factors(dy.shape[-1], True, dy.dtype, dy.device))
)
def walsh_hadamard_mux_dx(dy: Tensor, inner: Tensor, outer: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return dy.new_empty((dy.shape[0], inner.shape[0], *dy.shape[1:]), dtype=dtype)


def _forward_torch(x: Tensor, inner: Tensor, outer: Tensor, scale: float) -> Tensor:
    groups, num_instances, length, width = x.shape
    acc = accumulator_dtype(x)
    inner, outer = inner.to(acc), outer.to(acc) * scale
    y = x.new_zeros((groups, length, width), dtype=acc)
    with torch.autocast(x.device.type, enabled=False):
        for g, n in blocks(x, groups, num_instances, length * width):
            rotated = transform(x[g, n].to(acc) * inner[n, None], False)
            y[g] += (rotated * outer[n, None]).sum(1)
        return transform(y, False).to(x.dtype)


def _dx_torch(dy: Tensor, inner: Tensor, outer: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    acc = accumulator_dtype(dy)
    groups, length, width = dy.shape
    inner, outer = inner.to(acc), outer.to(acc) * scale
    dx = dy.new_empty((groups, inner.shape[0], length, width), dtype=dtype)
    with torch.autocast(dy.device.type, enabled=False):
        back = transform(dy.to(acc), True)
        for g, n in blocks(dy, groups, inner.shape[0], length * width):
            dx[g, n] = (transform(back[g, None] * outer[n, None], True) * inner[n, None]).to(dtype)
    return dx


_FORWARD = {"torch": _forward_torch, "triton": walsh_hadamard_mux_forward}
_DX = {"torch": _dx_torch, "triton": walsh_hadamard_mux_dx}
