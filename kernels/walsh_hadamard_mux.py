"""``y[g, l] = scale * H sum_i D_i H D'_i x[g, i, l]``: x (G, N, L, d), signs D and D' (N, d) -> y (G, L, d).

Bytes, s per element: forward reads s*G*N*L*d and writes s*G*L*d; dx reads and writes the reverse; 2*N*d signs.
docs/kernels.md explains the transform by two matrix products.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import FUSED, MAX_ROW, accumulator, on_device
from .common.launch_table import launch_parameters
from .common.tensors import rowwise


@triton.jit
def _product(x, matrix, LEFT: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr):
    """matrix @ x if LEFT, else x @ matrix, for a matrix of +1 and -1."""
    if PARTS == 1:
        x = x.to(matrix.dtype)
        if LEFT:
            y = tl.dot(matrix, x, input_precision="ieee", out_dtype=ACC)
        else:
            y = tl.dot(x, matrix, input_precision="ieee", out_dtype=ACC)
    else:
        y = tl.zeros_like(x)
        for _ in tl.static_range(PARTS):
            part = x.to(tl.bfloat16)
            x -= part.to(ACC)
            if LEFT:
                y = tl.dot(matrix, part.to(matrix.dtype), acc=y, input_precision="ieee", out_dtype=ACC)
            else:
                y = tl.dot(part.to(matrix.dtype), matrix, acc=y, input_precision="ieee", out_dtype=ACC)
    return y


@triton.jit
def _transform(x, left, right, INV_A: tl.constexpr, INV_B: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr):
    """left @ x @ right / sqrt(d) for a tile x (A, B), in the accumulator's dtype. Each product is scaled at once: sums
    of d elements could exceed float16's range."""
    return _product(_product(x, right, False, PARTS, ACC) * INV_B, left, True, PARTS, ACC) * INV_A


@triton.jit
def _place(length):
    """This program's row, its group and its position. Division is in 32 bits, offsets have 64."""
    row = tl.program_id(0)
    g = row // length
    return row.to(tl.int64), g.to(tl.int64), (row - g * length).to(tl.int64)


@triton.jit
def _row_as_tile(A: tl.constexpr, B: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr):
    """The offsets of a row's elements as a tile, and a mask of those that exist."""
    a, b = tl.arange(0, BLOCK_A), tl.arange(0, BLOCK_B)
    return a[:, None] * B + b[None, :], (a < A)[:, None] & (b < B)[None, :]


@triton.jit
def _square(ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    return tl.load(ptr + i[:, None] * BLOCK + i[None, :])


@triton.jit
def _forward_kernel(
    x_ptr,  # (G, N, L, d), unit stride along d
    inner_ptr,  # (N, d) contiguous
    outer_ptr,  # (N, d) contiguous
    left_ptr,  # (BLOCK_A, BLOCK_A) contiguous: H_A, then zeros
    right_ptr,  # (BLOCK_B, BLOCK_B) contiguous: H_B, then zeros
    y_ptr,  # (G * L, d) contiguous
    x_stride_g,
    x_stride_n,
    x_stride_l,
    num_instances,
    length,
    SCALE: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    INV_A: tl.constexpr,
    INV_B: tl.constexpr,
    PARTS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    row, g, l = _place(length)
    at, mask = _row_as_tile(A, B, BLOCK_A, BLOCK_B)
    left, right = _square(left_ptr, BLOCK_A), _square(right_ptr, BLOCK_B)
    x_ptrs = x_ptr + g * x_stride_g + l * x_stride_l + at
    sign_at = at
    acc = tl.zeros((BLOCK_A, BLOCK_B), dtype=ACC)
    for _ in tl.range(0, num_instances):
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(ACC)
        x *= tl.load(inner_ptr + sign_at, mask=mask, other=0).to(ACC)
        outer = tl.load(outer_ptr + sign_at, mask=mask, other=0).to(ACC)
        acc += outer * _transform(x, left, right, INV_A, INV_B, PARTS, ACC)
        x_ptrs += x_stride_n
        sign_at += A * B
    y = _transform(acc * SCALE, left, right, INV_A, INV_B, PARTS, ACC)
    tl.store(y_ptr + row * (A * B) + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _dx_kernel(
    dy_ptr,  # (G, L, d), unit stride along d
    inner_ptr,  # (N, d) contiguous
    outer_ptr,  # (N, d) contiguous
    left_ptr,  # (BLOCK_A, BLOCK_A) contiguous: the transpose of H_A, then zeros
    right_ptr,  # (BLOCK_B, BLOCK_B) contiguous: H_B, which is symmetric, then zeros
    dx_ptr,  # (G, N, L, d) contiguous
    dy_stride_g,
    dy_stride_l,
    num_instances,
    length,
    SCALE: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    INV_A: tl.constexpr,
    INV_B: tl.constexpr,
    PARTS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    _row, g, l = _place(length)
    at, mask = _row_as_tile(A, B, BLOCK_A, BLOCK_B)
    left, right = _square(left_ptr, BLOCK_A), _square(right_ptr, BLOCK_B)
    dy = tl.load(dy_ptr + g * dy_stride_g + l * dy_stride_l + at, mask=mask, other=0.0).to(ACC) * SCALE
    dy = _transform(dy, left, right, INV_A, INV_B, PARTS, ACC)
    dx_ptrs = dx_ptr + (g * num_instances * length + l) * (A * B) + at
    sign_at = at
    for _ in tl.range(0, num_instances):
        outer = tl.load(outer_ptr + sign_at, mask=mask, other=0).to(ACC)
        dx = _transform(dy * outer, left, right, INV_A, INV_B, PARTS, ACC)
        dx *= tl.load(inner_ptr + sign_at, mask=mask, other=0).to(ACC)
        tl.store(dx_ptrs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        dx_ptrs += tl.cast(length, tl.int64) * (A * B)
        sign_at += A * B


def blocks(width: int, order: int) -> tuple[int, int]:
    """The sides (A, B) of a row's tile: A * B = ``width``, A a multiple of ``order``. With sides padded to powers of
    two of at least 16, the tile with the fewest elements, then with the shortest sides."""
    sides = [(width // 2**b, 2**b) for b in range(1, 8) if width % (2**b * order) == 0]
    padded = [(max(16, triton.next_power_of_2(a)), max(16, b)) for a, b in sides]
    costs = [(a * b, a + b) for a, b in padded]
    return sides[costs.index(min(costs))] if sides else (width, 1)


def pad(matrix: Tensor, like: Tensor) -> Tensor:
    """Pads a square matrix of +1 and -1 with zeros to a size that `tl.dot` accepts, in the dtype and on the device of
    ``like``."""
    side = max(16, triton.next_power_of_2(matrix.shape[0]))
    padded = torch.zeros(side, side, dtype=like.dtype, device=like.device)
    padded[: matrix.shape[0], : matrix.shape[0]] = matrix.to(like)
    return padded


def _options(launcher: str, rows: Tensor, left: Tensor, right: Tensor, sides: tuple[int, int], scale: float) -> dict:
    (a, b), elements, limits = sides, left.shape[0] * right.shape[0], launch_parameters(launcher, rows)
    if a * b > MAX_ROW:
        raise ValueError(f"hidden_size is {a * b}, the triton kernels take at most {MAX_ROW}")
    return {
        "SCALE": scale, "A": a, "B": b, "INV_A": a**-0.5, "INV_B": b**-0.5,
        "PARTS": 3 if rows.dtype == torch.float32 else 1, "ACC": accumulator(rows),
        "BLOCK_A": left.shape[0], "BLOCK_B": right.shape[0],
        "num_warps": max(1, min(limits["warps"], elements // limits["per_warp"])), **FUSED,
    }  # fmt: skip


def _signs(signs: Tensor, rows: Tensor) -> Tensor:
    """Signs as the kernels read them: in float64 for rows in float64, since Triton 3.6 cannot convert int8 to it on
    sm_90."""
    return signs.contiguous().to(rows.dtype) if rows.dtype == torch.float64 else signs.contiguous()


def walsh_hadamard_mux_forward(
    x: Tensor, inner: Tensor, outer: Tensor, scale: float, left: Tensor, right: Tensor, sides: tuple[int, int]
) -> Tensor:
    """Returns y (G, L, d) in the dtype of x: x (G, N, L, d), signs (N, d), left and right the padded H_A and H_B, sides
    (A, B)."""
    x = rowwise(x)
    groups, num_instances, length, width = x.shape
    y = torch.empty((groups, length, width), dtype=x.dtype, device=x.device)
    if y.numel():
        options = _options("walsh_hadamard_mux_forward", x, left, right, sides, scale)
        with on_device(x):
            _forward_kernel[(groups * length,)](
                x, _signs(inner, x), _signs(outer, x), left, right, y, *x.stride()[:3], num_instances, length,
                **options,
            )  # fmt: skip
    return y


def walsh_hadamard_mux_dx(
    dy: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: float,
    dtype: torch.dtype,
    left: Tensor,
    right: Tensor,
    sides: tuple[int, int],
) -> Tensor:
    """Returns dx (G, N, L, d) in ``dtype``: dy (G, L, d), signs (N, d), left the transpose of H_A."""
    dy = rowwise(dy)
    groups, length, width = dy.shape
    dx = torch.empty((groups, inner.shape[0], length, width), dtype=dtype, device=dy.device)
    if dx.numel():
        options = _options("walsh_hadamard_mux_dx", dy, left, right, sides, scale)
        with on_device(dy):
            _dx_kernel[(groups * length,)](
                dy, _signs(inner, dy), _signs(outer, dy), left, right, dx, dy.stride(0), dy.stride(1),
                inner.shape[0], length, **options,
            )  # fmt: skip
    return dx
