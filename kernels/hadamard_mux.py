"""Per-instance Hadamard product and average in one pass: ``y[g, l] = scale * sum_i v[i] * x[g, i, l]``.

Traffic, s bytes an element: forward reads s*G*N*L*d and writes s*G*L*d; dx reads s*G*L*d and writes s*G*N*L*d; dv reads
s*G*(N + 1)*L*d. dx needs no x and dv writes no dx, so two kernels move no byte twice that one would move once, but
for dy.

Rows are the G*L pairs (g, l), cut into tiles that one program takes through all instances.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import accumulator, column_block, on_device
from .common.launch_table import launch_parameters
from .common.tensors import accumulator_dtype, rowwise


@triton.jit
def _rows_and_columns(num_rows, length, width, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """This program's rows as (group, position), columns and masks. Groups are int64: every offset grows from them."""
    blocks_d = tl.cdiv(width, BLOCK_D)
    pid = tl.program_id(0)
    rows = (pid // blocks_d).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)
    return rows, rows // length, rows % length, cols, (rows < num_rows)[:, None] & (cols < width)[None, :]


@triton.jit
def _forward_kernel(
    x_ptr,  # (G, N, L, d), unit stride along d
    v_ptr,  # (N, d) contiguous
    y_ptr,  # (G * L, d) contiguous
    x_stride_g,
    x_stride_n,
    x_stride_l,
    num_rows,  # G * L
    num_instances,
    length,
    width,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows, g, l, cols, mask = _rows_and_columns(num_rows, length, width, BLOCK_R, BLOCK_D)
    x_ptrs = x_ptr + (g * x_stride_g + l * x_stride_l)[:, None] + cols[None, :]
    v_ptrs = v_ptr + cols
    acc = tl.zeros((BLOCK_R, BLOCK_D), dtype=ACC)
    # Unrolled so that several instances' loads are in flight before the first is used.
    for _ in tl.range(0, num_instances, loop_unroll_factor=4):
        v = tl.load(v_ptrs, mask=cols < width, other=0.0).to(ACC)
        acc += v[None, :] * tl.load(x_ptrs, mask=mask, other=0.0).to(ACC)
        x_ptrs += x_stride_n
        v_ptrs += width
    tl.store(y_ptr + rows[:, None] * width + cols[None, :], (acc * SCALE).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _dx_kernel(
    dy_ptr,  # (G, L, d), unit stride along d
    v_ptr,  # (N, d) contiguous
    dx_ptr,  # (G, N, L, d) contiguous
    dy_stride_g,
    dy_stride_l,
    num_rows,
    num_instances,
    length,
    width,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    _, g, l, cols, mask = _rows_and_columns(num_rows, length, width, BLOCK_R, BLOCK_D)
    dy_ptrs = dy_ptr + (g * dy_stride_g + l * dy_stride_l)[:, None] + cols[None, :]
    dy = tl.load(dy_ptrs, mask=mask, other=0.0).to(ACC) * SCALE
    instance_stride = tl.cast(length, tl.int64) * width
    dx_ptrs = dx_ptr + (g * num_instances * instance_stride + l * width)[:, None] + cols[None, :]
    v_ptrs = v_ptr + cols
    for _ in tl.range(0, num_instances, loop_unroll_factor=4):
        v = tl.load(v_ptrs, mask=cols < width, other=0.0).to(ACC)
        tl.store(dx_ptrs, (v[None, :] * dy).to(dx_ptr.dtype.element_ty), mask=mask)
        dx_ptrs += instance_stride
        v_ptrs += width


@triton.jit
def _dv_kernel(
    dy_ptr,  # (G, L, d), unit stride along d
    x_ptr,  # (G, N, L, d), unit stride along d
    partial_ptr,  # (row blocks, N, d) contiguous, accumulator dtype
    dy_stride_g,
    dy_stride_l,
    x_stride_g,
    x_stride_n,
    x_stride_l,
    num_rows,
    num_instances,
    length,
    width,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    _, g, l, cols, mask = _rows_and_columns(num_rows, length, width, BLOCK_R, BLOCK_D)
    dy_ptrs = dy_ptr + (g * dy_stride_g + l * dy_stride_l)[:, None] + cols[None, :]
    dy = tl.load(dy_ptrs, mask=mask, other=0.0).to(ACC) * SCALE
    x_ptrs = x_ptr + (g * x_stride_g + l * x_stride_l)[:, None] + cols[None, :]
    block = (tl.program_id(0) // tl.cdiv(width, BLOCK_D)).to(tl.int64)
    partial_ptrs = partial_ptr + block * num_instances * width + cols
    for _ in tl.range(0, num_instances):
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(ACC)
        tl.store(partial_ptrs, tl.sum(dy * x, axis=0), mask=cols < width)
        x_ptrs += x_stride_n
        partial_ptrs += width


def hadamard_mux_forward(x: Tensor, v: Tensor, scale: float) -> Tensor:
    """x (G, N, L, d), v (N, d) -> y (G, L, d) in x's dtype."""
    x, v = rowwise(x), v.contiguous()
    groups, num_instances, length, width = x.shape
    y = torch.empty((groups, length, width), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    chosen = launch_parameters("hadamard_mux_forward", x)
    rows, block_r, block_d = groups * length, chosen["rows"], column_block(width, chosen["columns"])
    grid = (triton.cdiv(rows, block_r) * triton.cdiv(width, block_d),)
    with on_device(x):
        _forward_kernel[grid](
            x, v, y, x.stride(0), x.stride(1), x.stride(2), rows, num_instances, length, width,
            SCALE=scale, ACC=accumulator(x, v), BLOCK_R=block_r, BLOCK_D=block_d, num_warps=chosen["warps"],
        )  # fmt: skip
    return y


def hadamard_mux_dx(dy: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """dy (G, L, d), v (N, d) -> dx (G, N, L, d) in ``dtype``."""
    dy, v = rowwise(dy), v.contiguous()
    groups, length, width = dy.shape
    dx = torch.empty((groups, v.shape[0], length, width), dtype=dtype, device=dy.device)
    if dx.numel() == 0:
        return dx
    chosen = launch_parameters("hadamard_mux_dx", dy)
    rows, block_r, block_d = groups * length, chosen["rows"], column_block(width, chosen["columns"])
    grid = (triton.cdiv(rows, block_r) * triton.cdiv(width, block_d),)
    with on_device(dy):
        _dx_kernel[grid](
            dy, v, dx, dy.stride(0), dy.stride(1), rows, v.shape[0], length, width,
            SCALE=scale, ACC=accumulator(dy, v), BLOCK_R=block_r, BLOCK_D=block_d, num_warps=chosen["warps"],
        )  # fmt: skip
    return dx


def hadamard_mux_dv(dy: Tensor, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """dy (G, L, d), x (G, N, L, d) -> dv (N, d) in ``dtype``. Partial sums in a fixed order: bit-equal from run to
    run."""
    dy, x = rowwise(dy), rowwise(x)
    groups, num_instances, length, width = x.shape
    if x.numel() == 0:
        return torch.zeros((num_instances, width), dtype=dtype, device=x.device)
    chosen = launch_parameters("hadamard_mux_dv", x)
    rows, block_r, block_d = groups * length, chosen["rows"], column_block(width, chosen["columns"])
    row_blocks = triton.cdiv(rows, block_r)
    partial = torch.empty((row_blocks, num_instances, width), dtype=accumulator_dtype(dy, x), device=x.device)
    with on_device(x):
        _dv_kernel[(row_blocks * triton.cdiv(width, block_d),)](
            dy, x, partial, dy.stride(0), dy.stride(1), x.stride(0), x.stride(1), x.stride(2),
            rows, num_instances, length, width,
            SCALE=scale, ACC=accumulator(dy, x), BLOCK_R=block_r, BLOCK_D=block_d, num_warps=chosen["warps"],
        )  # fmt: skip
    return partial.sum(0).to(dtype)
