"""Add, GELU and LayerNorm of index demultiplexing in one pass: ``z[g, n, l] = LN(GELU(a[g, l] + b[g, n]))``.

a = W_h h is the hidden states' half of the first linear layer, b = W_p p + bias the instances' half, so the (G, N,
L, 2d) concatenation of the papers never exists. With ``instances`` (G, L) only the drawn instance of each position
is formed:
``z[g, l] = LN(GELU(a[g, l] + b[g, instances[g, l]]))``.

Traffic, s bytes an element: forward reads s*(G*L*d + G*N*d) and writes s*G*N*L*d; backward reads that much and writes
s*(G*L*d + G*N*d). Nothing is saved for backward but a and b: a row sits in one program's registers, so its sum, GELU
and statistics are cheaper to form again than to load.

A tile is a block of positions of one group; rows are whole (d columns). Gradients that many tiles share (db, d
ln_weight, d ln_bias) are left as one partial a program, summed in a fixed order: two runs are bit-equal.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator, accumulator_dtype, multiprocessors, on_device, row_tile, rowwise
from .rows import gelu, standardise, standardise_backward


@triton.jit
def _forward_kernel(
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d; stride 0 along G for keys
    instances_ptr,  # (G, L) int64 contiguous, or None for all N
    weight_ptr,  # (d)
    bias_ptr,  # (d)
    z_ptr,  # (G, N, L, d) contiguous; (G, L, d) with instances
    a_stride_g,
    a_stride_l,
    b_stride_g,
    b_stride_n,
    num_instances,
    length,
    width,
    instances_per_program,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks_l = tl.cdiv(length, BLOCK_L)
    blocks_n = 1 if instances_ptr is not None else tl.cdiv(num_instances, instances_per_program)
    pid = tl.program_id(0)
    g = (pid // (blocks_l * blocks_n)).to(tl.int64)
    block_n = (pid // blocks_l) % blocks_n
    l = (pid % blocks_l) * BLOCK_L + tl.arange(0, BLOCK_L).to(tl.int64)
    cols = tl.arange(0, BLOCK_D)
    in_row = cols < width
    mask = (l < length)[:, None] & in_row[None, :]

    a = tl.load(a_ptr + g * a_stride_g + l[:, None] * a_stride_l + cols[None, :], mask=mask, other=0.0).to(ACC)
    weight = tl.load(weight_ptr + cols, mask=in_row, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + cols, mask=in_row, other=0.0).to(ACC)
    b_ptrs = b_ptr + g * b_stride_g + cols

    if instances_ptr is not None:
        n = tl.load(instances_ptr + g * length + l, mask=l < length, other=0)
        b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
        value, _ = gelu(a + b)
        value, _ = standardise(value, in_row[None, :], width, EPS)
        z = (value * weight[None, :] + bias[None, :]).to(z_ptr.dtype.element_ty)
        tl.store(z_ptr + (g * length + l)[:, None] * width + cols[None, :], z, mask=mask)
    else:
        first = block_n.to(tl.int64) * instances_per_program
        b_ptrs += first * b_stride_n
        z_ptrs = z_ptr + ((g * num_instances + first) * length + l)[:, None] * width + cols[None, :]
        for _ in tl.range(0, tl.minimum(instances_per_program, num_instances - first)):
            b = tl.load(b_ptrs, mask=in_row, other=0.0).to(ACC)
            value, _ = gelu(a + b[None, :])
            value, _ = standardise(value, in_row[None, :], width, EPS)
            z = (value * weight[None, :] + bias[None, :]).to(z_ptr.dtype.element_ty)
            tl.store(z_ptrs, z, mask=mask)
            b_ptrs += b_stride_n
            z_ptrs += tl.cast(length, tl.int64) * width


@triton.jit
def _row_gradient(a_plus_b, dz, weight, valid, width, EPS: tl.constexpr):
    """Back through LayerNorm and GELU for whole rows -> (du, x_hat)."""
    value, slope = gelu(a_plus_b)
    x_hat, rstd = standardise(value, valid, width, EPS)
    dx = standardise_backward(dz * weight[None, :], x_hat, rstd, valid, width)
    # Slope is finite everywhere, dx is 0 outside.
    du = dx * slope
    return du, x_hat


@triton.jit
def _backward_kernel(
    dz_ptr,  # (G, N, L, d), or (G, L, d) with instances (N axis of stride 0); unit stride along d
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d
    instances_ptr,  # (G, L) int64 contiguous, or None
    weight_ptr,  # (d)
    da_ptr,  # (G, L, d) contiguous
    db_ptr,  # (G, chunks, N, d) contiguous, accumulator dtype; None with instances, or when not wanted
    dweight_ptr,  # (G, chunks, d) contiguous, accumulator dtype; None when not wanted
    dbias_ptr,  # (G, chunks, d) contiguous, accumulator dtype; None when not wanted
    dz_stride_g,
    dz_stride_n,
    dz_stride_l,
    a_stride_g,
    a_stride_l,
    b_stride_g,
    b_stride_n,
    num_instances,
    length,
    width,
    tiles_per_chunk,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    chunks = tl.cdiv(length, BLOCK_L * tiles_per_chunk)
    pid = tl.program_id(0).to(tl.int64)
    g = pid // chunks
    first_tile = (pid % chunks) * tiles_per_chunk
    cols = tl.arange(0, BLOCK_D)
    in_row = cols < width
    weight = tl.load(weight_ptr + cols, mask=in_row, other=0.0).to(ACC)
    b_ptrs = b_ptr + g * b_stride_g + cols
    dweight = tl.zeros((BLOCK_D,), dtype=ACC)
    dbias = tl.zeros((BLOCK_D,), dtype=ACC)

    for t in tl.range(0, tiles_per_chunk):
        l = (first_tile + t) * BLOCK_L + tl.arange(0, BLOCK_L)
        mask = (l < length)[:, None] & in_row[None, :]
        a = tl.load(a_ptr + g * a_stride_g + l[:, None] * a_stride_l + cols[None, :], mask=mask, other=0.0).to(ACC)
        dz_ptrs = dz_ptr + g * dz_stride_g + l[:, None] * dz_stride_l + cols[None, :]
        da_ptrs = da_ptr + (g * length + l)[:, None] * width + cols[None, :]
        if instances_ptr is not None:
            n = tl.load(instances_ptr + g * length + l, mask=l < length, other=0)
            b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
            dz = tl.load(dz_ptrs, mask=mask, other=0.0).to(ACC)
            du, x_hat = _row_gradient(a + b, dz, weight, mask, width, EPS)
            dweight += tl.sum(dz * x_hat, axis=0)
            dbias += tl.sum(dz, axis=0)
            tl.store(da_ptrs, du.to(da_ptr.dtype.element_ty), mask=mask)
        else:
            da = tl.zeros((BLOCK_L, BLOCK_D), dtype=ACC)
            b_row_ptrs = b_ptrs
            if db_ptr is not None:
                db_ptrs = db_ptr + pid * num_instances * width + cols
            for _ in tl.range(0, num_instances):
                b = tl.load(b_row_ptrs, mask=in_row, other=0.0).to(ACC)
                dz = tl.load(dz_ptrs, mask=mask, other=0.0).to(ACC)
                du, x_hat = _row_gradient(a + b[None, :], dz, weight, mask, width, EPS)
                da += du
                dweight += tl.sum(dz * x_hat, axis=0)
                dbias += tl.sum(dz, axis=0)
                if db_ptr is not None:
                    # The program's own partial: read back from L2 at every tile but the first.
                    seen = tl.load(db_ptrs, mask=in_row & (t > 0), other=0.0)
                    tl.store(db_ptrs, seen + tl.sum(du, axis=0), mask=in_row)
                    db_ptrs += width
                b_row_ptrs += b_stride_n
                dz_ptrs += dz_stride_n
            tl.store(da_ptrs, da.to(da_ptr.dtype.element_ty), mask=mask)
            # One thread may store the partial that another loads at the next tile.
            tl.debug_barrier()
    if dweight_ptr is not None:
        tl.store(dweight_ptr + pid * width + cols, dweight, mask=in_row)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + pid * width + cols, dbias, mask=in_row)


# (elements of a tile, elements a thread): one live tile forward; some five backward, which must not spill.
_FORWARD_TILE, _BACKWARD_TILE = (4096, 32), (4096, 16)
_PROGRAMS_PER_MULTIPROCESSOR = 4


def index_demux_forward(
    a: Tensor, b: Tensor, instances: Tensor | None, ln_weight: Tensor, ln_bias: Tensor, eps: float
) -> Tensor:
    """a (G, L, d), b (G, N, d), instances (G, L) int64 or None -> z (G, N, L, d), or (G, L, d), in a's dtype."""
    a, b = rowwise(a), rowwise(b)
    groups, length, width = a.shape
    num_instances = b.shape[1]
    shape = (groups, length, width) if instances is not None else (groups, num_instances, length, width)
    z = torch.empty(shape, dtype=a.dtype, device=a.device)
    if z.numel() == 0:
        return z
    block_l, block_d, warps = row_tile(length, width, *_FORWARD_TILE)
    tiles = groups * triton.cdiv(length, block_l)
    # A tile of `a` serves all instances, unless that leaves multiprocessors idle.
    splits = min(num_instances, triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(a), tiles))
    per_program = triton.cdiv(num_instances, splits)
    grid = (tiles * (1 if instances is not None else triton.cdiv(num_instances, per_program)),)
    with on_device(a):
        _forward_kernel[grid](
            a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(),
            ln_bias.contiguous(), z, a.stride(0), a.stride(1), b.stride(0), b.stride(1), num_instances, length,
            width, per_program, EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l, BLOCK_D=block_d, num_warps=warps,
        )  # fmt: skip
    return z


def index_demux_backward(
    dz: Tensor,
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    eps: float,
    need_db: bool,
    need_dln: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dz like z -> (da (G, L, d), db (G, N, d), dln_weight (d), dln_bias (d)); those not needed come back empty."""
    dz, a, b = rowwise(dz), rowwise(a), rowwise(b)
    groups, length, width = a.shape
    num_instances = b.shape[1]
    da = torch.empty((groups, length, width), dtype=a.dtype, device=a.device)
    # Not needed means empty, never None: the registered op returns tensors, and no two of them the same.
    db_sum, dw_sum, dbias_sum = (torch.zeros(0, dtype=t.dtype, device=a.device) for t in (b, ln_weight, ln_weight))
    if dz.numel() == 0:
        db_sum = torch.zeros_like(b, memory_format=torch.contiguous_format) if need_db else db_sum
        return da, db_sum, torch.zeros_like(ln_weight), torch.zeros_like(ln_weight)
    block_l, block_d, warps = row_tile(length, width, *_BACKWARD_TILE)
    tiles = triton.cdiv(length, block_l)
    # Fewer, longer chunks leave fewer partial rows; enough of them keep every multiprocessor busy.
    chunks = min(tiles, triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(a), groups))
    tiles_per_chunk = triton.cdiv(tiles, chunks)
    chunks = triton.cdiv(tiles, tiles_per_chunk)
    acc = accumulator_dtype(a, b)
    partial = {"dtype": acc, "device": a.device}
    db = torch.empty((groups, chunks, num_instances, width), **partial) if need_db and instances is None else None
    dweight = torch.empty((groups * chunks, width), **partial) if need_dln else None
    dbias = torch.empty((groups * chunks, width), **partial) if need_dln else None
    strides = (dz.stride(0), 0, dz.stride(1)) if instances is not None else dz.stride()[:3]
    with on_device(a):
        _backward_kernel[(groups * chunks,)](
            dz, a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(), da, db, dweight,
            dbias, *strides, a.stride(0), a.stride(1), b.stride(0), b.stride(1), num_instances, length, width,
            tiles_per_chunk, EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l, BLOCK_D=block_d, num_warps=warps,
        )  # fmt: skip
    if db is not None:
        db_sum = db.sum(1).to(b.dtype)
    elif need_db:
        db_sum = _gather_by_instance(da, instances, num_instances).to(b.dtype)
    if need_dln:
        dw_sum, dbias_sum = dweight.sum(0).to(ln_weight.dtype), dbias.sum(0).to(ln_weight.dtype)
    return da, db_sum, dw_sum, dbias_sum


def _gather_by_instance(da: Tensor, instances: Tensor, num_instances: int) -> Tensor:
    """Sum da (G, L, d) over the positions that drew each instance -> (G, N, d): a GEMM with a 0/1 matrix, which,
    unlike a scatter with atomics, adds in a fixed order."""
    drawn = torch.nn.functional.one_hot(instances, num_instances).to(da.dtype)
    return drawn.mT @ da
