"""Add, GELU and LayerNorm of index demultiplexing in one pass: ``z[g, n, l] = LN(GELU(a[g, l] + b[g, n]))``.

a = W_h h is the hidden states' half of the first linear layer, b = W_p p + bias the instances' half, so the (G, N,
L, 2d) concatenation of the papers never exists. With ``instances`` (G, L) only the drawn instance of each position
is formed:
``z[g, l] = LN(GELU(a[g, l] + b[g, instances[g, l]]))``.

Traffic, s bytes an element: forward reads s*(G*L*d + G*N*d) and writes s*G*N*L*d; backward reads that much and writes
s*(G*L*d + G*N*d). Nothing is saved for backward but a and b: a row sits in one program's registers, so its sum, GELU
and statistics are cheaper to form again than to load.

With a linear head of few labels behind it, z need not be written: kernels/pair_norm_head.py.

``product`` puts ``a * b`` in the place of ``GELU(a + b)``: LN(v_i * h_j), `unbind_demux` without its linear layer. With
the linear layer, its output is a (G, I, L, d) of any strides and b the bias: groups then are the pairs (g, i).

A tile is a block of positions of one group; rows are whole (d columns). Gradients that many tiles share (db, d
ln_weight, d ln_bias) are left as one partial a program, summed in a fixed order: two runs are bit-equal.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import accumulator, multiprocessors, on_device, whole_rows
from .common.launch_table import launch_parameters
from .common.rows import gelu, standardise, standardise_backward
from .common.tensors import accumulator_dtype, gradient_like, rowwise


@triton.jit
def pair(a, b, PRODUCT: tl.constexpr):
    """(value, slope): a * b, or GELU(a + b) and its derivative."""
    if PRODUCT:
        value = a * b
        slope = value
    else:
        value, slope = gelu(a + b)
    return value, slope


@triton.jit
def group_start(g, inner, stride_g, stride_i):
    """Where group g of a (G / inner, inner, ...) begins."""
    return (g // inner) * stride_g + (g % inner) * stride_i


@triton.jit
def _forward_kernel(
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d; stride 0 along G for keys
    instances_ptr,  # (G, L) int64 contiguous, or None for all N
    weight_ptr,  # (d)
    bias_ptr,  # (d)
    z_ptr,  # (G, N, L, d) contiguous; (G, L, d) with instances
    inner,  # G is G / inner times inner for `a`, whose strides are
    a_stride_g,
    a_stride_i,
    a_stride_l,
    b_stride_g,
    b_stride_n,
    num_instances,
    length,
    width,
    instances_per_program,
    PRODUCT: tl.constexpr,
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
    live = l < length
    in_row = cols < width
    mask = live[:, None] & in_row[None, :]

    a_ptrs = a_ptr + group_start(g, inner, a_stride_g, a_stride_i) + l[:, None] * a_stride_l + cols[None, :]
    a = tl.load(a_ptrs, mask=mask, other=0.0).to(ACC)
    weight = tl.load(weight_ptr + cols, mask=in_row, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + cols, mask=in_row, other=0.0).to(ACC)
    b_ptrs = b_ptr + g * b_stride_g + cols

    if instances_ptr is not None:
        n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
        b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
        value, _slope = pair(a, b, PRODUCT)
        x_hat, _rstd = standardise(value, in_row[None, :], width, EPS)
        z = (x_hat * weight[None, :] + bias[None, :]).to(z_ptr.dtype.element_ty)
        tl.store(z_ptr + (g * length + l)[:, None] * width + cols[None, :], z, mask=mask)
    else:
        first = block_n.to(tl.int64) * instances_per_program
        b_ptrs += first * b_stride_n
        rows = (g * num_instances + first) * length + l
        for _ in tl.range(0, tl.minimum(instances_per_program, num_instances - first)):
            b = tl.load(b_ptrs, mask=in_row, other=0.0).to(ACC)
            value, _slope = pair(a, b[None, :], PRODUCT)
            x_hat, _rstd = standardise(value, in_row[None, :], width, EPS)
            z = (x_hat * weight[None, :] + bias[None, :]).to(z_ptr.dtype.element_ty)
            tl.store(z_ptr + rows[:, None] * width + cols[None, :], z, mask=mask)
            b_ptrs += b_stride_n
            rows += length


@triton.jit
def _row_gradient(
    a,
    b,
    dz_rows,  # (R) pointers to the rows of dz
    dz_x_hat,
    dz_sum,
    weight,
    cols,
    valid,
    width,
    PRODUCT: tl.constexpr,
    EPS: tl.constexpr,
):
    """Back through LayerNorm and GELU for whole rows -> the gradients of a and b and the sums over rows of dz * x_hat
    and of dz, which the parameters' gradients need."""
    value, slope = pair(a, b, PRODUCT)
    x_hat, rstd = standardise(value, valid, width, EPS)
    dz = tl.load(dz_rows[:, None] + cols[None, :], mask=valid, other=0.0).to(a.dtype)
    dz_x_hat += tl.sum(dz * x_hat, axis=0)
    dz_sum += tl.sum(dz, axis=0)
    dx = standardise_backward(dz * weight[None, :], x_hat, rstd, valid, width)
    if PRODUCT:
        da = dx * b
        db = dx * a
    else:
        da = dx * slope
        db = da
    return da, db, dz_x_hat, dz_sum


@triton.jit
def _backward_kernel(
    dz_ptr,  # (G, N, L, d), or (G, L, d) with instances (N axis of stride 0); unit stride along d
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d
    instances_ptr,  # (G, L) int64 contiguous, or None
    weight_ptr,  # (d)
    da_ptr,  # like `a`
    db_ptr,  # (G, chunks, N, d) contiguous, accumulator dtype; None when not wanted. With instances, one row for each
    # position, (G, L, d), and None where it would be da
    sums_ptr,  # (G, chunks, 2, d) contiguous, like db; None when not wanted
    dz_stride_g,
    dz_stride_n,
    dz_stride_l,
    inner,  # as forward
    a_stride_g,
    a_stride_i,
    a_stride_l,
    da_stride_g,
    da_stride_i,
    da_stride_l,
    b_stride_g,
    b_stride_n,
    num_instances,
    length,
    width,
    tiles_per_chunk,
    PRODUCT: tl.constexpr,
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
    dz_x_hat = tl.zeros((BLOCK_D,), dtype=ACC)
    dz_sum = tl.zeros((BLOCK_D,), dtype=ACC)

    for t in tl.range(0, tiles_per_chunk):
        l = (first_tile + t) * BLOCK_L + tl.arange(0, BLOCK_L)
        live = l < length
        mask = live[:, None] & in_row[None, :]
        a_ptrs = a_ptr + group_start(g, inner, a_stride_g, a_stride_i) + l[:, None] * a_stride_l + cols[None, :]
        a = tl.load(a_ptrs, mask=mask, other=0.0).to(ACC)
        dz_rows = dz_ptr + g * dz_stride_g + l * dz_stride_l
        da_ptrs = da_ptr + group_start(g, inner, da_stride_g, da_stride_i)
        da_ptrs = da_ptrs + l[:, None] * da_stride_l + cols[None, :]
        if instances_ptr is not None:
            n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
            b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
            da, db, dz_x_hat, dz_sum = _row_gradient(
                a, b, dz_rows, dz_x_hat, dz_sum, weight, cols, mask, width, PRODUCT, EPS
            )
            tl.store(da_ptrs, da.to(da_ptr.dtype.element_ty), mask=mask)
            if db_ptr is not None:
                tl.store(db_ptr + (g * length + l)[:, None] * width + cols[None, :], db, mask=mask)
        else:
            da = tl.zeros((BLOCK_L, BLOCK_D), dtype=ACC)
            b_row_ptrs = b_ptrs
            if db_ptr is not None:
                db_ptrs = db_ptr + pid * num_instances * width + cols
            for _ in tl.range(0, num_instances):
                b = tl.load(b_row_ptrs, mask=in_row, other=0.0).to(ACC)
                da_n, db, dz_x_hat, dz_sum = _row_gradient(
                    a, b[None, :], dz_rows, dz_x_hat, dz_sum, weight, cols, mask, width, PRODUCT, EPS
                )
                da += da_n
                if db_ptr is not None:
                    # The program's own partial: read back from L2 at every tile but the first.
                    seen = tl.load(db_ptrs, mask=in_row & (t > 0), other=0.0)
                    tl.store(db_ptrs, seen + tl.sum(db, axis=0), mask=in_row)
                    db_ptrs += width
                b_row_ptrs += b_stride_n
                dz_rows += dz_stride_n
            tl.store(da_ptrs, da.to(da_ptr.dtype.element_ty), mask=mask)
            # One thread may store the partial that another loads at the next tile.
            tl.debug_barrier()
    if sums_ptr is not None:
        sums_ptrs = sums_ptr + pid * 2 * width + cols
        tl.store(sums_ptrs, dz_x_hat, mask=in_row)
        tl.store(sums_ptrs + width, dz_sum, mask=in_row)


def group_strides(a: Tensor) -> tuple[int, int, int, int]:
    """(inner, strides of group, inner group and position) of a (G, L, d) or (G / inner, inner, L, d)."""
    if a.dim() == 3:
        return 1, a.stride(0), 0, a.stride(1)
    return a.shape[1], *a.stride()[:3]


def pair_norm_forward(
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    product: bool = False,
) -> Tensor:
    """a (G, L, d) or (G / inner, inner, L, d), b (G, N, d), instances (G, L) int64 or None -> z (G, N, L, d), or
    (G, L, d), in a's dtype."""
    a, b = rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    shape = (groups, length, width) if instances is not None else (groups, num_instances, length, width)
    z = torch.empty(shape, dtype=a.dtype, device=a.device)
    if z.numel() == 0:
        return z
    chosen = launch_parameters("pair_norm_forward", a)
    block_l, block_d, warps = whole_rows(length, width, chosen["elements"], chosen["per_thread"])
    tiles = groups * triton.cdiv(length, block_l)
    # A tile of `a` serves all instances, unless that leaves multiprocessors idle.
    splits = min(num_instances, triton.cdiv(chosen["programs"] * multiprocessors(a), tiles))
    per_program = triton.cdiv(num_instances, splits)
    grid = (tiles * (1 if instances is not None else triton.cdiv(num_instances, per_program)),)
    with on_device(a):
        _forward_kernel[grid](
            a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(), ln_bias.contiguous(),
            z, *group_strides(a), b.stride(0), b.stride(1), num_instances, length, width, per_program, PRODUCT=product,
            EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l, BLOCK_D=block_d, num_warps=warps,
        )  # fmt: skip
    return z


def pair_norm_backward(
    dz: Tensor,
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    eps: float,
    need_db: bool,
    need_dln: bool,
    product: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dz like z -> (da (G, L, d), db (G, N, d), dln_weight (d), dln_bias (d)); those not needed come back empty."""
    if dz.numel() == 0:
        return gradient_like(a).zero_(), *zeros((b, ln_weight, ln_weight))
    da = gradient_like(a)
    dz, a, b = rowwise(dz), rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    chosen = launch_parameters("pair_norm_backward", a)
    block_l, block_d, warps = whole_rows(length, width, chosen["elements"], chosen["per_thread"])
    tiles = triton.cdiv(length, block_l)
    # Fewer, longer chunks leave fewer partial rows; enough of them keep every multiprocessor busy.
    chunks = min(tiles, triton.cdiv(chosen["programs"] * multiprocessors(a), groups))
    tiles_per_chunk = triton.cdiv(tiles, chunks)
    chunks = triton.cdiv(tiles, tiles_per_chunk)
    partial = {"dtype": accumulator_dtype(a, b), "device": a.device}
    db = None
    if need_db and instances is None:
        db = torch.empty((groups, chunks, num_instances, width), **partial)
    elif need_db and product:
        db = torch.empty((groups, length, width), **partial)
    sums = torch.empty((groups * chunks, 2, width), **partial) if need_dln else None
    strides = (dz.stride(0), 0, dz.stride(1)) if instances is not None else dz.stride()[:3]
    with on_device(a):
        _backward_kernel[(groups * chunks,)](
            dz, a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(), da, db, sums,
            *strides, *group_strides(a), *group_strides(da)[1:], b.stride(0), b.stride(1), num_instances, length,
            width, tiles_per_chunk, PRODUCT=product, EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l, BLOCK_D=block_d,
            num_warps=warps,
        )  # fmt: skip
    if need_db and instances is None:
        db = db.sum(1).to(b.dtype)
    elif need_db:
        db = _gather_by_instance(da if db is None else db, instances, num_instances).to(b.dtype)
    dln = (None, None) if sums is None else [row.clone().to(ln_weight.dtype) for row in sums.sum(0)]
    return da, *present((db, *dln), da)


def zeros(like: tuple[Tensor, ...]) -> list[Tensor]:
    """Of nothing, the gradients."""
    return [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in like]


def present(gradients: tuple[Tensor | None, ...], like: Tensor) -> list[Tensor]:
    """Not needed means empty, never None: the registered op returns tensors, and no two of them the same."""
    return [like.new_empty(0) if gradient is None else gradient for gradient in gradients]


def _gather_by_instance(da: Tensor, instances: Tensor, num_instances: int) -> Tensor:
    """Sum da (G, L, d) over the positions that drew each instance -> (G, N, d): a GEMM with a 0/1 matrix, which,
    unlike a scatter with atomics, adds in a fixed order."""
    drawn = torch.nn.functional.one_hot(instances, num_instances).to(da.dtype)
    return drawn.mT @ da
