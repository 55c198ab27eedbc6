"""``y[g, l] = scale * sum_i v[i] * x[g, i, l]``: x (G, N, L, d), v (N, d) -> y (G, L, d).

Bytes, s per element: forward reads s*G*N*L*d and writes s*G*L*d; dx reads s*G*L*d and writes s*G*N*L*d; dv reads
s*G*(N + 1)*L*d. docs/kernels.md explains the tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import FUSED, accumulator, column_block, index_type, on_device
from .common.launch_table import launch_parameters
from .common.tensors import accumulator_dtype, rowwise

MOST_CONSTANT = 8  # up to so many instances, a kernel is compiled for their number


@triton.jit
def _rows_and_columns(num_rows, length, width, INDEX: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """This program's rows, with their groups and positions, its columns and its mask. Offsets have 64 bits."""
    blocks_d = tl.cdiv(width, BLOCK_D)
    pid = tl.program_id(0)
    rows = (pid // blocks_d).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)
    g = rows // length
    l = rows - g * length
    mask = (rows < num_rows)[:, None] & (cols < width)[None, :]
    return rows.to(tl.int64), g.to(tl.int64), l.to(tl.int64), cols, mask


@triton.jit
def _product(x_ptrs, v_ptrs, n, x_stride_n, width, cols, mask, ACC: tl.constexpr):
    v = tl.load(v_ptrs + n * width, mask=cols < width, other=0.0).to(ACC)
    return v[None, :] * tl.load(x_ptrs + tl.cast(n, tl.int64) * x_stride_n, mask=mask, other=0.0).to(ACC)


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
    INSTANCES: tl.constexpr,  # num_instances if it is small, else 0
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows, g, l, cols, mask = _rows_and_columns(num_rows, length, width, INDEX, BLOCK_R, BLOCK_D)
    x_ptrs = x_ptr + (g * x_stride_g + l * x_stride_l)[:, None] + cols[None, :]
    acc = tl.zeros((BLOCK_R, BLOCK_D), dtype=ACC)
    if INSTANCES > 0:
        for n in tl.static_range(INSTANCES):
            acc += _product(x_ptrs, v_ptr + cols, n, x_stride_n, width, cols, mask, ACC)
    else:
        for n in tl.range(0, num_instances, loop_unroll_factor=4):
            acc += _product(x_ptrs, v_ptr + cols, n, x_stride_n, width, cols, mask, ACC)
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
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    _, g, l, cols, mask = _rows_and_columns(num_rows, length, width, INDEX, BLOCK_R, BLOCK_D)
    dy_ptrs = dy_ptr + (g * dy_stride_g + l * dy_stride_l)[:, None] + cols[None, :]
    dy = tl.load(dy_ptrs, mask=mask, other=0.0).to(ACC) * SCALE
    instance_stride = tl.cast(length, tl.int64) * width
    dx_ptrs = dx_ptr + (g * num_instances * instance_stride + l * width)[:, None] + cols[None, :]
    for n in tl.range(0, num_instances, loop_unroll_factor=4):
        v = tl.load(v_ptr + n * width + cols, mask=cols < width, other=0.0).to(ACC)
        tl.store(dx_ptrs + n * instance_stride, (v[None, :] * dy).to(dx_ptr.dtype.element_ty), mask=mask)


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
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    _, g, l, cols, mask = _rows_and_columns(num_rows, length, width, INDEX, BLOCK_R, BLOCK_D)
    dy_ptrs = dy_ptr + (g * dy_stride_g + l * dy_stride_l)[:, None] + cols[None, :]
    dy = tl.load(dy_ptrs, mask=mask, other=0.0).to(ACC) * SCALE
    x_ptrs = x_ptr + (g * x_stride_g + l * x_stride_l)[:, None] + cols[None, :]
    block = (tl.program_id(0) // tl.cdiv(width, BLOCK_D)).to(tl.int64)
    partial_ptrs = partial_ptr + block * num_instances * width + cols
    for n in tl.range(0, num_instances):
        x = tl.load(x_ptrs + tl.cast(n, tl.int64) * x_stride_n, mask=mask, other=0.0).to(ACC)
        tl.store(partial_ptrs + n * width, tl.sum(dy * x, axis=0), mask=cols < width)


def _plan(launcher: str, t: Tensor, other: Tensor, scale: float, rows: int) -> tuple[int, int, dict]:
    """The number of row blocks and of column blocks, and the options, of a launch over ``rows`` rows of ``t``."""
    width, chosen = t.shape[-1], launch_parameters(launcher, t)
    block_r, block_d = chosen["rows"], column_block(width, chosen["columns"])
    options = {
        "SCALE": scale, "ACC": accumulator(t, other), "INDEX": index_type(rows), "BLOCK_R": block_r,
        "BLOCK_D": block_d, "num_warps": chosen["warps"], **FUSED,
    }  # fmt: skip
    return triton.cdiv(rows, block_r), triton.cdiv(width, block_d), options


def hadamard_mux_forward(x: Tensor, v: Tensor, scale: float) -> Tensor:
    """x (G, N, L, d), v (N, d) -> y (G, L, d) in x's dtype."""
    x, v = rowwise(x), v.contiguous()
    groups, num_instances, length, width = x.shape
    y = torch.empty((groups, length, width), dtype=x.dtype, device=x.device)
    if y.numel():
        blocks_r, blocks_d, options = _plan("hadamard_mux_forward", x, v, scale, groups * length)
        with on_device(x):
            _forward_kernel[(blocks_r * blocks_d,)](
                x, v, y, *x.stride()[:3], groups * length, num_instances, length, width,
                INSTANCES=num_instances if num_instances <= MOST_CONSTANT else 0, **options,
            )  # fmt: skip
    return y


def hadamard_mux_dx(dy: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """dy (G, L, d), v (N, d) -> dx (G, N, L, d) in ``dtype``."""
    dy, v = rowwise(dy), v.contiguous()
    groups, length, width = dy.shape
    dx = torch.empty((groups, v.shape[0], length, width), dtype=dtype, device=dy.device)
    if dx.numel():
        blocks_r, blocks_d, options = _plan("hadamard_mux_dx", dy, v, scale, groups * length)
        with on_device(dy):
            _dx_kernel[(blocks_r * blocks_d,)](
                dy, v, dx, *dy.stride()[:2], groups * length, v.shape[0], length, width, **options
            )  # fmt: skip
    return dx


def hadamard_mux_dv(dy: Tensor, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """dy (G, L, d), x (G, N, L, d) -> dv (N, d) in ``dtype``. Partial sums in a fixed order: bit-equal from run to
    run."""
    dy, x = rowwise(dy), rowwise(x)
    groups, num_instances, length, width = x.shape
    if x.numel() == 0:
        return torch.zeros((num_instances, width), dtype=dtype, device=x.device)
    blocks_r, blocks_d, options = _plan("hadamard_mux_dv", x, dy, scale, groups * length)
    partial = torch.empty((blocks_r, num_instances, width), dtype=accumulator_dtype(dy, x), device=x.device)
    with on_device(x):
        _dv_kernel[(blocks_r * blocks_d,)](
            dy, x, partial, *dy.stride()[:2], *x.stride()[:3], groups * length, num_instances, length, width, **options
        )  # fmt: skip
    return partial.sum(0).to(dtype)
