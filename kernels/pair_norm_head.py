"""Logits (G, N, L, C) of a linear head on ``LN(GELU(a[g, l] + b[g, n]))`` (or on LN(a * b)), C <= 64; z is not written.

Bytes, s per element: forward reads s*(G*L*d + G*N*d + C*d) and writes s*G*N*L*C and, for backward, 4*G*N*L*(C + 2) of
t, mean and rstd. Backward reads these, dlogits and forward's inputs, and writes s*(G*L*d + G*N*d) and partial sums.
docs/kernels.md derives the folded head, and explains precision and tiles.

Longer than other files: forward and backward share the folded head, and are read side by side.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import FUSED, accumulator, index_type, lanes, multiprocessors, on_device, register_limit
from .common.launch_table import Parameters, launch_parameters
from .common.tensors import accumulator_dtype, gradient_like, rowwise
from .pair_norm import group_start, group_strides, pair, pair_and_slope, present, zeros


@triton.jit
def _product(x, y, PARTS: tl.constexpr, OPERAND: tl.constexpr, ACC: tl.constexpr):
    """x @ y on tensor cores. x and y are split into ``PARTS`` bfloat16s each; products below the result's last digit
    are left out. 0 parts for float64."""
    product = tl.zeros((x.shape[0], y.shape[1]), dtype=ACC)
    if PARTS == 0:
        product = tl.dot(x.to(ACC), y.to(ACC), acc=product, input_precision="ieee", out_dtype=ACC)
    for step in tl.static_range(PARTS):
        x_rest = x
        for i in tl.static_range(PARTS - step):
            x_part = x_rest.to(tl.bfloat16)
            x_rest -= x_part.to(ACC)
            y_rest = y
            for j in tl.static_range(PARTS - step - i):
                y_part = y_rest.to(tl.bfloat16)
                y_rest -= y_part.to(ACC)
                if i + j == PARTS - 1 - step:
                    product = tl.dot(
                        x_part.to(OPERAND), y_part.to(OPERAND), acc=product, input_precision="ieee", out_dtype=ACC
                    )
    return product


@triton.jit
def _forward_kernel(
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d; stride 0 along G for keys
    head_ptr,  # H: (C, d) contiguous
    shift_ptr,  # (C), accumulator dtype
    logits_ptr,  # (G, N, L, C) contiguous
    t_ptr,  # (G, N, L, C) contiguous, accumulator dtype; None if not needed
    mean_ptr,  # (G, N, L) contiguous, accumulator dtype; None if t is
    rstd_ptr,  # like mean
    inner,  # `a` may be (G / inner, inner, L, d); its strides:
    a_stride_g,
    a_stride_i,
    a_stride_l,
    b_stride_g,
    b_stride_n,
    groups,
    num_instances,
    length,
    width,
    PRODUCT: tl.constexpr,
    LABELS: tl.constexpr,
    EPS: tl.constexpr,
    PARTS: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # The instances of a position are neighbours in a tile, since they share a row of `a`.
    i = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    position = i // num_instances
    group = position // length
    live = group < groups
    n, l = (i - position * num_instances).to(tl.int64), (position - group * length).to(tl.int64)
    g = group.to(tl.int64)
    a_rows = a_ptr + group_start(group, inner, a_stride_g, a_stride_i) + l * a_stride_l
    b_rows = b_ptr + g * b_stride_g + n * b_stride_n
    labels = tl.arange(0, BLOCK_C)

    first = tl.zeros((BLOCK_R,), dtype=ACC)
    total = tl.zeros((BLOCK_R,), dtype=ACC)
    squares = tl.zeros((BLOCK_R,), dtype=ACC)
    logits = tl.zeros((BLOCK_R, BLOCK_C), dtype=ACC)
    for start in tl.range(0, width, BLOCK_D):
        cols = start + tl.arange(0, BLOCK_D)
        in_row = cols < width
        mask = live[:, None] & in_row[None, :]
        a = tl.load(a_rows[:, None] + cols[None, :], mask=mask, other=0.0).to(ACC)
        b = tl.load(b_rows[:, None] + cols[None, :], mask=mask, other=0.0).to(ACC)
        head_mask = (labels < LABELS)[:, None] & in_row[None, :]
        head = tl.load(head_ptr + labels[:, None] * width + cols[None, :], mask=head_mask, other=0.0)
        value = pair(a, b, PRODUCT)
        first = tl.where(start == 0, tl.sum(value, axis=1) / tl.minimum(BLOCK_D, width), first)
        value = tl.where(in_row[None, :], value - first[:, None], 0.0)
        total += tl.sum(value, axis=1)
        squares += tl.sum(value * value, axis=1)
        logits += _product(value, tl.trans(head), PARTS, OPERAND, ACC)

    mean = total / width
    rstd = 1.0 / tl.sqrt(tl.maximum(squares / width - mean * mean, 0.0) + EPS)
    t = logits * rstd[:, None]
    logits = t + tl.load(shift_ptr + labels, mask=labels < LABELS, other=0.0)[None, :]
    rows = (g * num_instances + n) * length + l
    at = rows[:, None] * LABELS + labels[None, :]
    mask = live[:, None] & (labels < LABELS)[None, :]
    tl.store(logits_ptr + at, logits.to(logits_ptr.dtype.element_ty), mask=mask)
    if t_ptr is not None:
        tl.store(t_ptr + at, t, mask=mask)
        tl.store(mean_ptr + rows, first + mean, mask=live)
        tl.store(rstd_ptr + rows, rstd, mask=live)


@triton.jit
def _backward_kernel(
    dlogits_ptr,  # (G, N, L, C), of any strides
    t_ptr,  # (G, N, L, C) contiguous, accumulator dtype
    mean_ptr,  # (G, N, L) contiguous, accumulator dtype
    rstd_ptr,  # like mean
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d
    head_ptr,  # H: (C, d) contiguous
    da_ptr,  # like `a`
    db_ptr,  # (G, parts, N, d) contiguous, accumulator dtype; None if not needed
    sums_ptr,  # T: (shares, C, d) contiguous, accumulator dtype; None if not needed
    dlogits_stride_g,
    dlogits_stride_n,
    dlogits_stride_l,
    dlogits_stride_c,
    inner,  # as forward
    a_stride_g,
    a_stride_i,
    a_stride_l,
    da_stride_g,
    da_stride_i,
    da_stride_l,
    b_stride_g,
    b_stride_n,
    groups,
    num_instances,
    length,
    width,
    groups_per_share,
    tiles_per_part,
    PRODUCT: tl.constexpr,
    LABELS: tl.constexpr,
    PARTS: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # A share is several groups, or a part of one. The blocks of d of a share run side by side, since they read the same
    # logits.
    blocks_d = tl.cdiv(width, BLOCK_D)
    parts = tl.cdiv(length, BLOCK_L * tiles_per_part)
    share = tl.program_id(0) // blocks_d
    part = share % parts
    first_group = (share // parts) * groups_per_share
    cols = (tl.program_id(0) % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_row = cols < width
    labels = tl.arange(0, BLOCK_C)
    is_label = labels < LABELS
    head_mask = is_label[:, None] & in_row[None, :]
    head_at = labels[:, None] * width + cols[None, :]
    head = tl.load(head_ptr + head_at, mask=head_mask, other=0.0)
    sums = tl.zeros((BLOCK_C, BLOCK_D), dtype=ACC)
    inverse = 1.0 / tl.cast(width, ACC)

    row = tl.arange(0, BLOCK_L)
    for group in tl.range(first_group, tl.minimum(first_group + groups_per_share, groups)):
        for tile in tl.range(0, tiles_per_part):
            # Offsets of a tile have 64 bits, offsets within it 32.
            g, l = tl.cast(group, tl.int64), (tl.cast(part, tl.int64) * tiles_per_part + tile) * BLOCK_L
            live = row < length - l
            mask = live[:, None] & in_row[None, :]
            label_mask = live[:, None] & is_label[None, :]
            a_tile = a_ptr + group_start(group, inner, a_stride_g, a_stride_i) + l * a_stride_l
            a = tl.load(a_tile + (row * a_stride_l)[:, None] + cols[None, :], mask=mask, other=0.0).to(ACC)
            # Adds 0. It makes the compiler give `a`, and all that is computed from it, the layout of products.
            # Otherwise it converts between layouts, or computes in both.
            if PARTS > 0:
                nothing = tl.zeros((BLOCK_L, 16), dtype=OPERAND)
                zeros = tl.zeros((16, BLOCK_D), dtype=OPERAND)
                a = tl.dot(nothing, zeros, acc=a, input_precision="ieee", out_dtype=ACC)
            da = tl.zeros((BLOCK_L, BLOCK_D), dtype=ACC)
            first_row = g * num_instances * length + l
            dlogits_tile = dlogits_ptr + g * dlogits_stride_g + l * dlogits_stride_l
            b_row = b_ptr + g * b_stride_g
            for n in tl.range(0, num_instances):
                dlogits_ptrs = dlogits_tile + (row * dlogits_stride_l)[:, None] + (labels * dlogits_stride_c)[None, :]
                dlogits = tl.load(dlogits_ptrs, mask=label_mask, other=0.0)
                t_ptrs = t_ptr + first_row * LABELS + row[:, None] * LABELS + labels[None, :]
                t = tl.load(t_ptrs, mask=label_mask, other=0.0).to(ACC)
                along = tl.sum(dlogits.to(ACC) * t, axis=1) * inverse
                mean = tl.load(mean_ptr + first_row + row, mask=live, other=0.0)
                rstd = tl.load(rstd_ptr + first_row + row, mask=live, other=0.0)

                b = tl.load(b_row + cols, mask=in_row, other=0.0).to(ACC)[None, :]
                value, slope = pair_and_slope(a, b, PRODUCT)
                x_hat = (value - mean[:, None]) * rstd[:, None]
                if sums_ptr is not None:
                    sums += _product(tl.trans(dlogits), x_hat, PARTS, OPERAND, ACC)
                dx = (_product(dlogits, head, PARTS, OPERAND, ACC) - x_hat * along[:, None]) * rstd[:, None]
                if PRODUCT:
                    da += dx * b
                    db = dx * a
                else:
                    db = dx * slope
                    da += db
                if db_ptr is not None:
                    # The program's own partial sum, read back from L2 at every tile but the first.
                    db_ptrs = db_ptr + ((g * parts + part) * num_instances + n) * width + cols
                    seen = tl.load(db_ptrs, mask=in_row & (tile > 0), other=0.0)
                    tl.store(db_ptrs, seen + tl.sum(db, axis=0), mask=in_row)
                dlogits_tile += dlogits_stride_n
                first_row += length
                b_row += b_stride_n
            da_tile = da_ptr + group_start(group, inner, da_stride_g, da_stride_i) + l * da_stride_l
            tl.store(da_tile + (row * da_stride_l)[:, None] + cols[None, :], da.to(da_ptr.dtype.element_ty), mask=mask)
            # One thread may store a partial sum that another loads at the next tile.
            tl.debug_barrier()
    if sums_ptr is not None:
        tl.store(sums_ptr + tl.cast(share, tl.int64) * LABELS * width + head_at, sums, mask=head_mask)


def _block(size: int, limit: int) -> int:
    """A side of a tile that `tl.dot` accepts: a power of two of at least 16."""
    return min(limit, max(16, triton.next_power_of_2(size)))


def _options(a: Tensor, b: Tensor, labels: int, product: bool, chosen: Parameters) -> dict:
    # Triton's interpreter multiplies the bits of bfloat16 as integers.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    acc = accumulator(a, b)
    parts = 0 if acc == tl.float64 else {torch.bfloat16: 1, torch.float16: 2}.get(a.dtype, 3)
    columns, stages = (
        (chosen["columns"] // 2, max(1, chosen["stages"] - 1)) if parts != 1 else (chosen["columns"], chosen["stages"])
    )
    return {
        "PRODUCT": product, "LABELS": labels, "PARTS": parts, "OPERAND": tl.float32 if interpreted else tl.bfloat16,
        "ACC": acc, "BLOCK_C": _block(labels, 64), "BLOCK_D": _block(a.shape[-1], columns),
        # The same number of threads, and of registers in each, where a warp has 64 lanes.
        "num_warps": max(1, chosen["warps"] * 32 // lanes()), "num_stages": stages, **FUSED,
    }  # fmt: skip


def pair_norm_head_forward(
    a: Tensor, b: Tensor, head: Tensor, shift: Tensor, eps: float, product: bool, need_statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the logits (G, N, L, C) in the dtype of a and, in the accumulator's dtype, t (G, N, L, C), the logits
    before the shift, and the mean and rstd (G, N, L) of each row. Without ``need_statistics`` the last three are empty.

    Args:
        a: (G, L, d) or (G / inner, inner, L, d).
        b: (G, N, d).
        head, shift: (C, d) contiguous and (C), the folded head.
    """
    a, b = rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    labels, rows = head.shape[0], (groups, num_instances, length)
    logits = torch.empty((*rows, labels), dtype=a.dtype, device=a.device)
    t, mean, rstd = (
        torch.empty(size if need_statistics else (0,), dtype=accumulator_dtype(a, b), device=a.device)
        for size in ((*rows, labels), rows, rows)
    )
    if logits.numel():
        saved = (t, mean, rstd) if need_statistics else (None, None, None)
        chosen = launch_parameters("pair_norm_head_forward", a)
        total = groups * num_instances * length
        block_r = _block(total, chosen["rows"])
        with on_device(a):
            _forward_kernel[(triton.cdiv(total, block_r),)](
                a, b, head, shift, logits, *saved,
                *group_strides(a), b.stride(0), b.stride(1), *rows, width, EPS=eps,
                INDEX=index_type(total), BLOCK_R=block_r, **_options(a, b, labels, product, chosen),
            )  # fmt: skip
    return logits, t, mean, rstd


def pair_norm_head_backward(
    dlogits: Tensor,
    t: Tensor,
    mean: Tensor,
    rstd: Tensor,
    a: Tensor,
    b: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    product: bool,
    need_db: bool,
    need_parameters: bool,
    head: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of a, b, ln_weight, ln_bias, head_weight and head_bias; those not needed are empty. The
    arguments are those of forward and what it returned; ``head`` is the folded one."""
    bias = head_weight[:, 0] if head_bias is None else head_bias
    if dlogits.numel() == 0:
        return gradient_like(a).zero_(), *zeros((b, ln_weight, ln_bias, head_weight, bias))
    da = gradient_like(a)
    a, b = rowwise(a), rowwise(b)
    groups, num_instances, length, labels = dlogits.shape
    width = a.shape[-1]
    chosen = launch_parameters("pair_norm_head_backward", a)
    options = _options(a, b, labels, product, chosen)
    # For a small head on half the columns, two programs fit the registers of a multiprocessor.
    fits = options["BLOCK_C"] == 16 and options["PARTS"] != 1
    block_l, block_d = _block(length, chosen["rows"]), options["BLOCK_D"]
    tiles = triton.cdiv(length, block_l)
    # Long shares leave few partial sums; there must be enough of them to keep every multiprocessor busy.
    blocks_d = triton.cdiv(width, block_d)
    wanted = triton.cdiv(chosen["programs"] * multiprocessors(a), blocks_d)
    tiles_per_part = triton.cdiv(tiles, min(tiles, triton.cdiv(wanted, groups)))
    parts = triton.cdiv(tiles, tiles_per_part)
    groups_per_share = max(1, groups * parts // wanted)
    shares = triton.cdiv(groups, groups_per_share) * parts
    partial = {"dtype": accumulator_dtype(a, b), "device": a.device}
    db = torch.empty((groups, parts, num_instances, width), **partial) if need_db else None
    sums = torch.empty((shares, labels, width), **partial) if need_parameters else None
    with on_device(a):
        _backward_kernel[(blocks_d * shares,)](
            dlogits, t, mean, rstd, a, b, head, da, db, sums,
            *dlogits.stride(), *group_strides(a), *group_strides(da)[1:], b.stride(0), b.stride(1), groups,
            num_instances, length, width, groups_per_share, tiles_per_part, BLOCK_L=block_l,
            **options, **(register_limit(options["ACC"]) if fits else {}),
        )  # fmt: skip
    db = db.sum(1).to(b.dtype) if need_db else None
    parameters = (None,) * 4
    if need_parameters:
        acc = partial["dtype"]
        sums, unfolded, total = sums.sum(0), head_weight.to(acc), dlogits.sum((0, 1, 2), dtype=acc)
        dhead = sums * ln_weight.to(acc) + total[:, None] * ln_bias.to(acc)
        parameters = (
            (unfolded * sums).sum(0).to(ln_weight.dtype),
            (total @ unfolded).to(ln_bias.dtype),
            dhead.to(head_weight.dtype),
            total.to(bias.dtype),
        )
    return da, *present((db, *parameters), da)
