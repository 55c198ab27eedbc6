"""``z[g, n, l] = LN(GELU(a[g, l] + b[g, n]))``: a (G, L, d), b (G, N, d) -> z (G, N, L, d).

With ``instances`` (G, L), z (G, L, d) has n = instances[g, l] only. ``product`` replaces GELU(a + b) by a * b. Bytes, s
per element: forward reads s*(G*L*d + G*N*d) and writes s*G*N*L*d; backward reads as much as both and writes
s*(G*L*d + G*N*d). docs/kernels.md explains the tiles and the order of sums.

Longer than other files: forward and backward share their arithmetic, and are read side by side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import accumulator, multiprocessors, on_device, register_limit, whole_rows
from .common.launch_table import launch_parameters
from .common.rows import (
    add_blocks,
    column_sums,
    columns,
    full_blocks,
    gelu,
    gelu_value,
    load_blocks,
    look_up,
    standardise,
    standardise_backward,
    store_blocks,
)
from .common.tensors import accumulator_dtype, gradient_like, rowwise


@triton.jit
def pair(a, b, PRODUCT: tl.constexpr):
    """a * b with PRODUCT, else GELU(a + b)."""
    return a * b if PRODUCT else gelu_value(a + b)


@triton.jit
def pair_and_slope(a, b, PRODUCT: tl.constexpr):
    """`pair` and, without PRODUCT, GELU's derivative. With PRODUCT the second value is not used."""
    value = a * b
    slope = value
    if not PRODUCT:
        value, slope = gelu(a + b)
    return value, slope


@triton.jit
def group_start(g, inner, stride_g, stride_i):
    """The offset of group g of a (G / inner, inner, ...). Division is in g's 32 bits, multiplication in 64."""
    outer = g // inner
    return outer.to(tl.int64) * stride_g + (g - outer * inner).to(tl.int64) * stride_i


@triton.jit
def _normalised(
    a, b, weight, bias, live, in_row, width, PRODUCT: tl.constexpr, EPS: tl.constexpr, EXACT: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    values = ()
    for i in tl.static_range(BLOCKS):
        values = values + (pair(a[i], b[i], PRODUCT),)
    x_hat, _rstd = standardise(values, live, in_row, width, EPS, EXACT, BLOCKS)
    z = ()
    for i in tl.static_range(BLOCKS):
        z = z + (x_hat[i] * weight[i] + bias[i],)
    return z


@triton.jit
def _forward_kernel(
    a_ptr,  # (G, L, d), or (G / inner, inner, L, d) with a pair of indices for a group; unit stride along d
    b_ptr,  # (G, N, d), unit stride along d; stride 0 along G for keys
    instances_ptr,  # (G, L) int64 contiguous, or None for all N
    weight_ptr,  # (d)
    bias_ptr,  # (d)
    z_ptr,  # (G, N, L, d) contiguous; (G, L, d) with instances
    inner,
    a_stride_g,
    a_stride_i,
    a_stride_l,
    b_stride_g,
    b_stride_n,
    num_instances,
    length,
    width,
    blocks_n,  # the number of programs that share the instances of a tile
    instances_per_program,
    PRODUCT: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):
    blocks_l = tl.cdiv(length, BLOCK_R)
    pid = tl.program_id(0)
    block = pid // blocks_l
    group = block // blocks_n
    g = group.to(tl.int64)
    l = (pid - block * blocks_l) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    cols, in_row = columns(width, EXACT, BLOCKS, BLOCK_D)
    live = l < length
    mask = live[:, None] & in_row

    a_ptrs = a_ptr + group_start(group, inner, a_stride_g, a_stride_i) + l[:, None] * a_stride_l + cols
    a = load_blocks(a_ptrs, mask, ACC, BLOCKS, BLOCK_D)
    weight = load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D)
    bias = load_blocks(bias_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D)
    b_ptrs = b_ptr + g * b_stride_g + cols

    if instances_ptr is not None:
        n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
        b = look_up(b_ptrs, n, num_instances, b_stride_n, mask, ACC, BLOCKS, BLOCK_D)
        z = _normalised(a, b, weight, bias, live, in_row, width, PRODUCT, EPS, EXACT, BLOCKS)
        store_blocks(z_ptr + (g * length + l)[:, None] * width + cols, z, mask, BLOCKS, BLOCK_D)
    else:
        first = (block - group * blocks_n).to(tl.int64) * instances_per_program
        # Load b's row for each row of a, from the cache. A single load would be passed on through shared memory.
        b_ptrs = b_ptrs + first * b_stride_n + tl.zeros((BLOCK_R, 1), dtype=tl.int32)
        rows = (g * num_instances + first) * length + l
        for _ in tl.range(0, tl.minimum(instances_per_program, num_instances - first)):
            b = load_blocks(b_ptrs, in_row, ACC, BLOCKS, BLOCK_D)
            z = _normalised(a, b, weight, bias, live, in_row, width, PRODUCT, EPS, EXACT, BLOCKS)
            store_blocks(z_ptr + rows[:, None] * width + cols, z, mask, BLOCKS, BLOCK_D)
            b_ptrs += b_stride_n
            rows += length


@triton.jit
def _row_gradient(
    a,
    b,
    dz_ptrs,  # (R, D) pointers to the first block of dz
    dz_x_hat,
    dz_sum,
    weight,
    live,
    mask,
    in_row,
    width,
    PRODUCT: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):
    """The gradient of whole rows of a and b, back through LayerNorm and GELU, and the running sums of dz * x_hat and
    dz, for the gradients of LayerNorm's parameters. For rows that are masked, dz and the gradients are 0."""
    values = ()
    slopes = ()
    for i in tl.static_range(BLOCKS):
        value, slope = pair_and_slope(a[i], b[i], PRODUCT)
        values = values + (value,)
        slopes = slopes + (slope,)
    x_hat, rstd = standardise(values, live, in_row, width, EPS, EXACT, BLOCKS)
    dz = load_blocks(dz_ptrs, mask, ACC, BLOCKS, BLOCK_D)
    dx_hat = ()
    new_dz_x_hat = ()
    new_dz_sum = ()
    for i in tl.static_range(BLOCKS):
        new_dz_x_hat = new_dz_x_hat + (dz_x_hat[i] + dz[i] * x_hat[i],)
        new_dz_sum = new_dz_sum + (dz_sum[i] + dz[i],)
        dx_hat = dx_hat + (dz[i] * weight[i],)
    dx = standardise_backward(dx_hat, x_hat, rstd, width, BLOCKS)
    da = ()
    db = ()
    for i in tl.static_range(BLOCKS):
        da = da + (dx[i] * (b[i] if PRODUCT else slopes[i]),)
        db = db + (dx[i] * (a[i] if PRODUCT else slopes[i]),)
    return da, db, new_dz_x_hat, new_dz_sum


@triton.jit
def _backward_kernel(
    dz_ptr,  # (G, N, L, d), or (G, L, d) with instances (N axis of stride 0); unit stride along d
    a_ptr,  # as forward
    b_ptr,  # (G, N, d), unit stride along d
    instances_ptr,  # (G, L) int64 contiguous, or None
    weight_ptr,  # (d)
    da_ptr,  # like `a`
    # db: (G, chunks, N, d) contiguous, accumulator dtype. With instances, one row for each position, (G, L, d), and
    # None
    # where it equals da. None if not needed.
    db_ptr,
    sums_ptr,  # (G, chunks, 2, d) contiguous, accumulator dtype; None if not needed
    dz_stride_g,
    dz_stride_n,
    dz_stride_l,
    inner,
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
    BLOCK_R: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):
    chunks = tl.cdiv(length, BLOCK_R * tiles_per_chunk)
    pid = tl.program_id(0)
    group = pid // chunks
    first_tile = (pid % chunks).to(tl.int64) * tiles_per_chunk
    g, pid = group.to(tl.int64), pid.to(tl.int64)
    cols, in_row = columns(width, EXACT, BLOCKS, BLOCK_D)
    weight = load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D)
    b_ptrs = b_ptr + g * b_stride_g + cols
    # The running sums keep a row dimension until the end, since sums over rows move data between threads.
    dz_x_hat = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    dz_sum = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)

    for t in tl.range(0, tiles_per_chunk):
        l = (first_tile + t) * BLOCK_R + tl.arange(0, BLOCK_R)
        live = l < length
        mask = live[:, None] & in_row
        a_ptrs = a_ptr + group_start(group, inner, a_stride_g, a_stride_i) + l[:, None] * a_stride_l + cols
        a = load_blocks(a_ptrs, mask, ACC, BLOCKS, BLOCK_D)
        dz_ptrs = dz_ptr + g * dz_stride_g + l[:, None] * dz_stride_l + cols
        da_ptrs = da_ptr + group_start(group, inner, da_stride_g, da_stride_i)
        da_ptrs = da_ptrs + l[:, None] * da_stride_l + cols
        if instances_ptr is not None:
            n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
            b = look_up(b_ptrs, n, num_instances, b_stride_n, mask, ACC, BLOCKS, BLOCK_D)
            da, db, dz_x_hat, dz_sum = _row_gradient(
                a, b, dz_ptrs, dz_x_hat, dz_sum, weight, live, mask, in_row, width, PRODUCT, EPS, ACC, BLOCKS, BLOCK_D,
                EXACT,
            )  # fmt: skip
            if db_ptr is not None:
                store_blocks(db_ptr + (g * length + l)[:, None] * width + cols, db, mask, BLOCKS, BLOCK_D)
        else:
            da = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
            for n in tl.range(0, num_instances):
                b_row_ptrs = b_ptrs + tl.cast(n, tl.int64) * b_stride_n
                b = load_blocks(b_row_ptrs, in_row, ACC, BLOCKS, BLOCK_D)
                da_n, db, dz_x_hat, dz_sum = _row_gradient(
                    a, b, dz_ptrs + tl.cast(n, tl.int64) * dz_stride_n, dz_x_hat, dz_sum, weight, live, mask, in_row,
                    width, PRODUCT, EPS, ACC, BLOCKS, BLOCK_D, EXACT,
                )  # fmt: skip
                da = add_blocks(da, da_n, BLOCKS)
                if db_ptr is not None:
                    # The program's own partial sum, read back from L2 at every tile but the first.
                    db_ptrs = db_ptr + (pid * num_instances + n) * width + cols
                    seen = load_blocks(db_ptrs, in_row & (t > 0), ACC, BLOCKS, BLOCK_D)
                    seen = add_blocks(seen, column_sums(db, BLOCKS), BLOCKS)
                    store_blocks(db_ptrs, seen, in_row, BLOCKS, BLOCK_D)
            # One thread may store a partial sum that another loads at the next tile.
            tl.debug_barrier()
        store_blocks(da_ptrs, da, mask, BLOCKS, BLOCK_D)
    if sums_ptr is not None:
        sums_ptrs = sums_ptr + pid * 2 * width + cols
        store_blocks(sums_ptrs, column_sums(dz_x_hat, BLOCKS), in_row, BLOCKS, BLOCK_D)
        store_blocks(sums_ptrs + width, column_sums(dz_sum, BLOCKS), in_row, BLOCKS, BLOCK_D)


def group_strides(a: Tensor) -> tuple[int, int, int, int]:
    """Returns inner, and the strides of outer group, inner group and position, of a (G, L, d) or
    (G / inner, inner, L, d)."""
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
    """Returns z (G, N, L, d), or (G, L, d) with instances, in the dtype of a: a (G, L, d) or (G / inner, inner, L, d),
    b (G, N, d), instances (G, L) int64 or None."""
    a, b = rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    shape = (groups, length, width) if instances is not None else (groups, num_instances, length, width)
    z = torch.empty(shape, dtype=a.dtype, device=a.device)
    if z.numel() == 0:
        return z
    chosen = launch_parameters("pair_norm_forward", a)
    options = whole_rows(length, width, chosen["elements"], chosen["per_thread"])
    tiles = groups * triton.cdiv(length, options["BLOCK_R"])
    # One program runs a tile of `a` through all instances, unless that leaves multiprocessors idle.
    splits = min(num_instances, triton.cdiv(chosen["programs"] * multiprocessors(a), tiles))
    per_program = triton.cdiv(num_instances, splits)
    blocks_n = 1 if instances is not None else triton.cdiv(num_instances, per_program)
    acc = accumulator(a, b)
    with on_device(a):
        _forward_kernel[(tiles * blocks_n,)](
            a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(), ln_bias.contiguous(),
            z, *group_strides(a), b.stride(0), b.stride(1), num_instances, length, width, blocks_n, per_program,
            PRODUCT=product, EPS=eps, ACC=acc, **options, **register_limit(acc),
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
    """Returns da (G, L, d), db (G, N, d), dln_weight (d) and dln_bias (d) for dz like z. Those not needed are empty."""
    if dz.numel() == 0:
        return gradient_like(a).zero_(), *zeros((b, ln_weight, ln_weight))
    da = gradient_like(a)
    dz, a, b = rowwise(dz), rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    chosen = launch_parameters("pair_norm_backward", a)
    options = whole_rows(length, width, chosen["elements"], chosen["per_thread"])
    tiles = triton.cdiv(length, options["BLOCK_R"])
    # Long chunks leave few partial sums. There are as many programs as are resident at a time, so that no second wave
    # is nearly empty.
    wave = max(1, chosen["resident"] // options["num_warps"]) * multiprocessors(a)
    chunks = min(tiles, max(1, wave // groups))
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
    acc = accumulator(a, b)
    with on_device(a):
        _backward_kernel[(groups * chunks,)](
            dz, a, b, None if instances is None else instances.contiguous(), ln_weight.contiguous(), da, db, sums,
            *strides, *group_strides(a), *group_strides(da)[1:], b.stride(0), b.stride(1), num_instances, length,
            width, tiles_per_chunk, PRODUCT=product, EPS=eps, ACC=acc, **options, **register_limit(acc),
        )  # fmt: skip
    if need_db and instances is None:
        db = db.sum(1).to(b.dtype)
    elif need_db:
        db = _gather_by_instance(da if db is None else db, instances, num_instances).to(b.dtype)
    dln = (None, None) if sums is None else [row.clone().to(ln_weight.dtype) for row in sums.sum(0)]
    return da, *present((db, *dln), da)


def zeros(like: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradients of an empty call: zeros."""
    return [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in like]


def present(gradients: tuple[Tensor | None, ...], like: Tensor) -> list[Tensor]:
    """Replaces None by an empty tensor: a registered op returns tensors, and no tensor twice."""
    return [like.new_empty(0) if gradient is None else gradient for gradient in gradients]


def _gather_by_instance(da: Tensor, instances: Tensor, num_instances: int) -> Tensor:
    """Sums da (G, L, d) over the positions of each instance -> (G, N, d), by a matrix product with a 0/1 matrix. Unlike
    atomics it adds in a fixed order."""
    drawn = (instances[..., None] == torch.arange(num_instances, device=instances.device)).to(da.dtype)
    return drawn.mT @ da
