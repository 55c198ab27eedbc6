"""`walsh_hadamard` and `walsh_hadamard_mux`: random rotations in O(d log d). Kernel: kernels/walsh_hadamard.py.

The Hadamard matrix of order d = m * 2^k is a Kronecker product, H_m (x) H_2 (x) ... (x) H_2, and a Kronecker product of
matrices of up to 64 rows is a matrix product for each: 768 = 12 * 64 takes two, of 12 and of 64 columns.
"""

from __future__ import annotations

import functools
import math
import os

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmux.backends import choose_backend
from fastmux.functional.blocking import blocks
from fastmux.functional.checks import Shapes, check_floating


def _paley(q: int) -> Tensor:
    """Hadamard matrix of order q + 1 for a prime q = 3 mod 4, of order 2q + 2 for a prime q = 1 mod 4."""
    symbol = -torch.ones(q, dtype=torch.float64)
    symbol[torch.arange(1, q) ** 2 % q] = 1
    symbol[0] = 0
    i = torch.arange(q)
    bordered = torch.ones(q + 1, q + 1, dtype=torch.float64)
    bordered[1:, 1:] = symbol[(i[:, None] - i) % q]
    bordered[0, 0] = 0
    eye = torch.eye(q + 1, dtype=torch.float64)
    if q % 4 == 3:
        bordered[1:, 0] = -1
        return eye + bordered
    plus, minus = torch.tensor([[[1, 1], [1, -1]], [[1, -1], [-1, -1]]], dtype=torch.float64)
    return torch.kron(bordered, plus) + torch.kron(eye, minus)


def _sylvester(order: int) -> Tensor:
    i = torch.arange(order)
    common = i[:, None] & i
    parity = sum((common >> bit) & 1 for bit in range(order.bit_length())) % 2
    return 1.0 - 2.0 * parity.double()


# In general not symmetric: the inverse of a transform is its transpose.
_MATRICES = {12: _paley(11), 20: _paley(19), 28: _paley(13)} | {2**k: _sylvester(2**k) for k in range(8)}
_ODD_PART = {1: 1, 3: 12, 5: 20, 7: 28}


def check_order(op: str, name: str, width: int) -> None:
    """Raises ValueError unless a Hadamard matrix of order ``width`` is known here."""
    m = _ODD_PART.get(width // (width & -width)) if width > 0 else None
    if m is None or width % m:
        raise ValueError(
            f"{op}: {name} has a last dimension of {width}, expected m * 2^k with m in {{1, 12, 20, 28}}: pad to one"
        )


def hadamard_factors(width: int, largest: int = 64) -> list[Tensor]:
    """The matrices whose Kronecker product, in this order, is the Hadamard matrix of order ``width``: H_m, if m > 1,
    and Sylvester's of at most ``largest`` rows. Entries +1 and -1, float64 on the CPU."""
    m = _ODD_PART[width // (width & -width)]
    powers = (width // m).bit_length() - 1
    parts = max(1, -(-powers // (largest.bit_length() - 1)))
    orders = [2 ** (powers // parts + (part < powers % parts)) for part in range(parts)]
    return [_MATRICES[order] for order in ([m] if m > 1 else []) + [o for o in orders if o > 1]]


def walsh_hadamard(x: Tensor, *, transpose: bool = False) -> Tensor:
    """``x @ H.T``, with H the orthonormal Hadamard matrix of order d; ``x @ H`` with ``transpose``, the inverse.

    On any device products with small matrices, by PyTorch: one for a factor of at most 64 rows. H is not symmetric for
    every d, so applying the transform twice is not in general the identity.

    Args:
        x: (..., d), d = m * 2^k with m in {1, 12, 20, 28}.

    Returns:
        (..., d) in the dtype of ``x``.

    Raises:
        ValueError: if d is of another form, or x is not floating point.

    Example:
        >>> import torch
        >>> from fastmux.functional import walsh_hadamard
        >>> walsh_hadamard(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    check_floating("walsh_hadamard", x=x)
    check_order("walsh_hadamard", "x", x.shape[-1] if x.dim() else 0)
    return _transform(x, transpose)


def walsh_hadamard_mux(x: Tensor, inner_signs: Tensor, outer_signs: Tensor, *, scale: float | None = None) -> Tensor:
    """Multiplex N instances: ``y = scale * sum_i O_i x_i`` with ``O_i = H D_i H D'_i``, H the Hadamard matrix.

    Random orthogonal matrices that cost O(d log d) and 2d signs each. H, scaled to be orthonormal, is shared on the
    left, so that N + 1 transforms do: ``y = scale * H sum_i D_i H D'_i x_i``.

    Args:
        x: (G, N, L, d), any strides, any floating dtype; d = m * 2^k with m in {1, 12, 20, 28}.
        inner_signs, outer_signs: (N, d), the diagonals of D'_i and D_i, +1 or -1, of any dtype; fixed, so they get no
            gradient.
        scale: 1/sqrt(N) by default, which keeps the variance of independent instances.

    Returns:
        (G, L, d) in the dtype of ``x``.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, d is of another form, or signs require a gradient.

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
    return WalshHadamardMux.apply(x, inner_signs, outer_signs, float(scale), choose_backend(x))


class WalshHadamardMux(torch.autograd.Function):
    """dx_i = scale * D'_i H^T D_i (H^T dy): transposes, and H^T dy is shared."""

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
    """The two matrices that the kernel multiplies by and their orders, copied to a device once. Called inside the
    registered ops alone, where tensors are real."""
    from fastmux.kernels.walsh_hadamard import blocks, pad

    order = _ODD_PART[width // (width & -width)]
    sides = blocks(width, order)
    left = torch.kron(_MATRICES[order], _sylvester(sides[0] // order))
    if dtype == torch.float32:
        dtype = torch.bfloat16  # the kernel cuts rows into parts of it
    if dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1":
        dtype = torch.float32  # Triton's interpreter multiplies the bits of bfloat16, as if they were integers
    like = torch.empty(0, dtype=dtype, device=device)
    return pad(left.mT if transpose else left, like), pad(_sylvester(sides[1]), like), sides


@torch.library.custom_op("fastmux::walsh_hadamard_mux_forward", mutates_args=())
def _forward_triton(x: Tensor, inner: Tensor, outer: Tensor, scale: float) -> Tensor:
    from fastmux.kernels.walsh_hadamard import walsh_hadamard_mux_forward

    return walsh_hadamard_mux_forward(x, inner, outer, scale, *kernel_factors(x.shape[-1], False, x.dtype, x.device))


@_forward_triton.register_fake
def _(x, inner, outer, scale):
    return x.new_empty(x.shape[0], *x.shape[2:])


@torch.library.custom_op("fastmux::walsh_hadamard_mux_dx", mutates_args=())
def _dx_triton(dy: Tensor, inner: Tensor, outer: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    from fastmux.kernels.walsh_hadamard import walsh_hadamard_mux_dx

    factors = kernel_factors(dy.shape[-1], True, dy.dtype, dy.device)
    return walsh_hadamard_mux_dx(dy, inner, outer, scale, dtype, *factors)


@_dx_triton.register_fake
def _(dy, inner, outer, scale, dtype):
    return dy.new_empty((dy.shape[0], inner.shape[0], *dy.shape[1:]), dtype=dtype)


def _transform(x: Tensor, transpose: bool) -> Tensor:
    """Factor by factor over the last dimension; every other keeps its place."""
    shape, before, behind = x.shape, x.shape[:-1].numel(), x.shape[-1]
    for factor in hadamard_factors(behind):
        rows = factor.shape[0]
        behind //= rows
        matrix = ((factor.mT if transpose else factor) / math.sqrt(rows)).to(x)
        x = x.reshape(before, rows, behind)
        x = torch.matmul(matrix, x) if behind > 1 else x.squeeze(-1) @ matrix.mT
        before *= rows
    return x.reshape(shape)


def _acc(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _forward_torch(x: Tensor, inner: Tensor, outer: Tensor, scale: float) -> Tensor:
    groups, num_instances, length, width = x.shape
    acc = _acc(x.dtype)
    inner, outer = inner.to(acc), outer.to(acc) * scale
    y = x.new_zeros((groups, length, width), dtype=acc)
    with torch.autocast(x.device.type, enabled=False):
        for g, n in blocks(x, groups, num_instances, length * width):
            rotated = _transform(x[g, n].to(acc) * inner[n, None], False)
            y[g] += (rotated * outer[n, None]).sum(1)
        return _transform(y, False).to(x.dtype)


def _dx_torch(dy: Tensor, inner: Tensor, outer: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    acc = _acc(dtype)
    groups, length, width = dy.shape
    inner, outer = inner.to(acc), outer.to(acc) * scale
    dx = dy.new_empty((groups, inner.shape[0], length, width), dtype=dtype)
    with torch.autocast(dy.device.type, enabled=False):
        back = _transform(dy.to(acc), True)
        for g, n in blocks(dy, groups, inner.shape[0], length * width):
            dx[g, n] = (_transform(back[g, None] * outer[n, None], True) * inner[n, None]).to(dtype)
    return dx


_FORWARD = {"torch": _forward_torch, "triton": _forward_triton}
_DX = {"torch": _dx_torch, "triton": _dx_triton}
