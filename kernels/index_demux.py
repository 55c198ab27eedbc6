"""Add, GELU and LayerNorm of index demultiplexing in one pass: ``z[g, n, l] = LN(GELU(a[g, l] + b[g, n]))``.

a = W_h h is the hidden states' half of the first linear layer, b = W_p p + bias the instances' half, so the (G, N,
L, 2d) concatenation of the papers never exists. With ``instances`` (G, L) only the drawn instance of each position
is formed:
``z[g, l] = LN(GELU(a[g, l] + b[g, instances[g, l]]))``.

Traffic, s bytes an element: forward reads s*(G*L*d + G*N*d) and writes s*G*N*L*d; backward reads that much and writes
s*(G*L*d + G*N*d). Nothing is saved for backward but a and b: a row sits in one program's registers, so its sum, GELU
and statistics are cheaper to form again than to load.

With a small head the logits ``z @ head.T + bias`` (G, N, L, C) are written and z never is: LayerNorm's weight and bias
go into the head first, ``logits = x_hat @ (head * ln_weight).T + (head @ ln_bias + bias)``, and one sum over the row in
registers remains for each label. Backward likewise reads dlogits and forms dz from them; a head of more labels than
have room there for their gradients takes the route over z. All parameters' gradients follow from the same sums T_c of
dlogits_c * x_hat: dhead_c = T_c * ln_weight + sum(dlogits_c) * ln_bias, dln_weight = sum_c head_c * T_c.

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

from .launch import accumulator, accumulator_dtype, multiprocessors, on_device, row_tile, rowwise
from .rows import gelu, standardise, standardise_backward
from .tiles import tile


@triton.jit
def _pair(a, b, PRODUCT: tl.constexpr):
    """(value, slope): a * b, or GELU(a + b) and its derivative."""
    if PRODUCT:
        value = a * b
        slope = value
    else:
        value, slope = gelu(a + b)
    return value, slope


@triton.jit
def _store_rows(
    x_hat,  # (R, D)
    rows,  # (R) of z
    live,
    weight,  # (D), or None with a head
    bias,
    head_ptr,  # (C, d) contiguous, times the LayerNorm's weight; or None
    head_bias_ptr,  # (C), with the LayerNorm's bias
    z_ptr,
    cols,
    mask,
    width,
    LABELS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """LayerNorm's last step, and the row of z or of logits to memory."""
    if head_ptr is None:
        z = (x_hat * weight[None, :] + bias[None, :]).to(z_ptr.dtype.element_ty)
        tl.store(z_ptr + rows[:, None] * width + cols[None, :], z, mask=mask)
    else:
        labels = tl.arange(0, BLOCK_C)
        logits = tl.zeros((BLOCK_R, BLOCK_C), dtype=ACC)
        for c in tl.range(0, LABELS):
            head = tl.load(head_ptr + c * width + cols, mask=cols < width, other=0.0)
            logits = tl.where((labels == c)[None, :], tl.sum(x_hat * head[None, :], axis=1)[:, None], logits)
        logits += tl.load(head_bias_ptr + labels, mask=labels < LABELS, other=0.0)[None, :]
        ptrs = z_ptr + rows[:, None] * LABELS + labels[None, :]
        tl.store(ptrs, logits.to(z_ptr.dtype.element_ty), mask=live[:, None] & (labels < LABELS)[None, :])


@triton.jit
def _forward_kernel(
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d; stride 0 along G for keys
    instances_ptr,  # (G, L) int64 contiguous, or None for all N
    weight_ptr,  # (d), or None with a head
    bias_ptr,  # (d), or None with a head
    head_ptr,  # (C, d) contiguous, accumulator dtype, times LayerNorm's weight; or None
    head_bias_ptr,  # (C), accumulator dtype, with LayerNorm's bias; or None
    z_ptr,  # (G, N, L, d) contiguous; (G, L, d) with instances; C in place of d with a head
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
    LABELS: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
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

    a_ptrs = a_ptr + (g // inner) * a_stride_g + (g % inner) * a_stride_i + l[:, None] * a_stride_l + cols[None, :]
    a = tl.load(a_ptrs, mask=mask, other=0.0).to(ACC)
    weight = None
    bias = None
    if head_ptr is None:
        weight = tl.load(weight_ptr + cols, mask=in_row, other=0.0).to(ACC)
        bias = tl.load(bias_ptr + cols, mask=in_row, other=0.0).to(ACC)
    b_ptrs = b_ptr + g * b_stride_g + cols

    if instances_ptr is not None:
        n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
        b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
        value, _slope = _pair(a, b, PRODUCT)
        x_hat, _rstd = standardise(value, in_row[None, :], width, EPS)
        _store_rows(
            x_hat, g * length + l, live, weight, bias, head_ptr, head_bias_ptr, z_ptr, cols, mask, width, LABELS, ACC,
            BLOCK_L, BLOCK_C,
        )  # fmt: skip
    else:
        first = block_n.to(tl.int64) * instances_per_program
        b_ptrs += first * b_stride_n
        rows = (g * num_instances + first) * length + l
        for _ in tl.range(0, tl.minimum(instances_per_program, num_instances - first)):
            b = tl.load(b_ptrs, mask=in_row, other=0.0).to(ACC)
            value, _slope = _pair(a, b[None, :], PRODUCT)
            x_hat, _rstd = standardise(value, in_row[None, :], width, EPS)
            _store_rows(
                x_hat, rows, live, weight, bias, head_ptr, head_bias_ptr, z_ptr, cols, mask, width, LABELS, ACC,
                BLOCK_L, BLOCK_C,
            )  # fmt: skip
            b_ptrs += b_stride_n
            rows += length


@triton.jit
def _label_gradient(dx_hat, sums, x_hat, dz_rows, live, head_ptr, c, cols, width, ACC: tl.constexpr):
    """Label c's share of the gradient of x_hat, and of the sums over rows of dlogits * x_hat."""
    dlogits = tl.load(dz_rows + c, mask=live, other=0.0).to(ACC)[:, None]
    head = tl.load(head_ptr + c * width + cols, mask=cols < width, other=0.0)
    return dx_hat + dlogits * head[None, :], sums + tl.sum(dlogits * x_hat, axis=0)


@triton.jit
def _row_gradient(
    a,
    b,
    dz_rows,  # (R) pointers to the rows of dz or dlogits
    sums0,
    sums1,
    sums2,
    sums3,
    live,
    weight,
    head_ptr,
    cols,
    valid,
    width,
    PRODUCT: tl.constexpr,
    LABELS: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Back through head, LayerNorm and GELU for whole rows -> the gradients of a and b and the sums over rows that the
    parameters' gradients need: of dz * x_hat and of dz, or, with a head, of each label's dlogits * x_hat."""
    value, slope = _pair(a, b, PRODUCT)
    x_hat, rstd = standardise(value, valid, width, EPS)
    if head_ptr is None:
        dz = tl.load(dz_rows[:, None] + cols[None, :], mask=valid, other=0.0).to(ACC)
        sums0 += tl.sum(dz * x_hat, axis=0)
        sums1 += tl.sum(dz, axis=0)
        dx_hat = dz * weight[None, :]
    else:
        dx_hat = tl.zeros_like(x_hat)
        dx_hat, sums0 = _label_gradient(dx_hat, sums0, x_hat, dz_rows, live, head_ptr, 0, cols, width, ACC)
        if LABELS > 1:
            dx_hat, sums1 = _label_gradient(dx_hat, sums1, x_hat, dz_rows, live, head_ptr, 1, cols, width, ACC)
        if LABELS > 2:
            dx_hat, sums2 = _label_gradient(dx_hat, sums2, x_hat, dz_rows, live, head_ptr, 2, cols, width, ACC)
        if LABELS > 3:
            dx_hat, sums3 = _label_gradient(dx_hat, sums3, x_hat, dz_rows, live, head_ptr, 3, cols, width, ACC)
    dx = standardise_backward(dx_hat, x_hat, rstd, valid, width)
    if PRODUCT:
        da = dx * b
        db = dx * a
    else:
        da = dx * slope
        db = da
    return da, db, sums0, sums1, sums2, sums3


@triton.jit
def _backward_kernel(
    dz_ptr,  # (G, N, L, d), or (G, L, d) with instances (N axis of stride 0); unit stride along d. C for d with a head
    a_ptr,  # (G, L, d), unit stride along d
    b_ptr,  # (G, N, d), unit stride along d
    instances_ptr,  # (G, L) int64 contiguous, or None
    weight_ptr,  # (d), or None with a head
    head_ptr,  # (C, d) contiguous, accumulator dtype, times LayerNorm's weight; or None
    da_ptr,  # like `a`
    db_ptr,  # (G, chunks, N, d) contiguous, accumulator dtype; None when not wanted. With instances, one row for each
    # position, (G, L, d), and None where it would be da
    sums_ptr,  # (G, chunks, 2, d), or (G, chunks, C, d) with a head, like db; None when not wanted
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
    LABELS: tl.constexpr,
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
    weight = None
    if head_ptr is None:
        weight = tl.load(weight_ptr + cols, mask=in_row, other=0.0).to(ACC)
    b_ptrs = b_ptr + g * b_stride_g + cols
    # One name each: a row of a two-dimensional tile cannot be added to.
    sums0 = tl.zeros((BLOCK_D,), dtype=ACC)
    sums1 = tl.zeros((BLOCK_D,), dtype=ACC)
    sums2 = tl.zeros((BLOCK_D,), dtype=ACC)
    sums3 = tl.zeros((BLOCK_D,), dtype=ACC)

    for t in tl.range(0, tiles_per_chunk):
        l = (first_tile + t) * BLOCK_L + tl.arange(0, BLOCK_L)
        live = l < length
        mask = live[:, None] & in_row[None, :]
        a_ptrs = a_ptr + (g // inner) * a_stride_g + (g % inner) * a_stride_i + l[:, None] * a_stride_l + cols[None, :]
        a = tl.load(a_ptrs, mask=mask, other=0.0).to(ACC)
        dz_rows = dz_ptr + g * dz_stride_g + l * dz_stride_l
        da_ptrs = da_ptr + (g // inner) * da_stride_g + (g % inner) * da_stride_i
        da_ptrs = da_ptrs + l[:, None] * da_stride_l + cols[None, :]
        if instances_ptr is not None:
            n = tl.load(instances_ptr + g * length + l, mask=live, other=0)
            b = tl.load(b_ptrs[None, :] + n[:, None] * b_stride_n, mask=mask, other=0.0).to(ACC)
            da, db, sums0, sums1, sums2, sums3 = _row_gradient(
                a, b, dz_rows, sums0, sums1, sums2, sums3, live, weight, head_ptr, cols, mask, width, PRODUCT, LABELS,
                EPS, ACC,
            )  # fmt: skip
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
                da_n, db, sums0, sums1, sums2, sums3 = _row_gradient(
                    a, b[None, :], dz_rows, sums0, sums1, sums2, sums3, live, weight, head_ptr, cols, mask, width,
                    PRODUCT, LABELS, EPS, ACC,
                )  # fmt: skip
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
        NUM_SUMS: tl.constexpr = 2 if head_ptr is None else LABELS
        sums_ptrs = sums_ptr + pid * NUM_SUMS * width + cols
        tl.store(sums_ptrs, sums0, mask=in_row)
        if NUM_SUMS > 1:
            tl.store(sums_ptrs + width, sums1, mask=in_row)
        if NUM_SUMS > 2:
            tl.store(sums_ptrs + 2 * width, sums2, mask=in_row)
        if NUM_SUMS > 3:
            tl.store(sums_ptrs + 3 * width, sums3, mask=in_row)


# As many sums of a row's length does a backward program hold beside its tiles, while a row is no longer than this.
_BACKWARD_LABELS, _BACKWARD_LABELS_ROW = 4, 2048


def _fold(ln_weight: Tensor, head_weight: Tensor, acc: torch.dtype) -> Tensor:
    """LayerNorm's weight in the head: (C, d) contiguous in the accumulator's dtype."""
    return (head_weight.to(acc) * ln_weight.to(acc)).contiguous()


def _group_strides(a: Tensor) -> tuple[int, int, int, int]:
    """(inner, strides of group, inner group and position) of a (G, L, d) or (G / inner, inner, L, d)."""
    if a.dim() == 3:
        return 1, a.stride(0), 0, a.stride(1)
    return a.shape[1], *a.stride()[:3]


def gradient_like(a: Tensor) -> Tensor:
    """Where the gradient of ``a`` goes: in its own layout, so that the GEMM behind it reads it as it lies."""
    return torch.empty_like(a) if a.stride(-1) == 1 else torch.empty(a.shape, dtype=a.dtype, device=a.device)


def index_demux_forward(
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
    product: bool = False,
) -> Tensor:
    """a (G, L, d) or (G / inner, inner, L, d), b (G, N, d), instances (G, L) int64 or None, head_weight (C, d) and
    head_bias (C) or None -> z (G, N, L, d), or (G, L, d), C in place of d with a head, in a's dtype."""
    a, b = rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    columns = width if head_weight is None else head_weight.shape[0]
    shape = (groups, length, columns) if instances is not None else (groups, num_instances, length, columns)
    z = torch.empty(shape, dtype=a.dtype, device=a.device)
    if z.numel() == 0:
        return z
    chosen = tile("index_demux_forward", a)
    block_l, block_d, warps = row_tile(length, width, chosen["elements"], chosen["per_thread"])
    tiles = groups * triton.cdiv(length, block_l)
    # A tile of `a` serves all instances, unless that leaves multiprocessors idle.
    splits = min(num_instances, triton.cdiv(chosen["programs"] * multiprocessors(a), tiles))
    per_program = triton.cdiv(num_instances, splits)
    grid = (tiles * (1 if instances is not None else triton.cdiv(num_instances, per_program)),)
    if head_weight is None:
        parameters, labels = (ln_weight.contiguous(), ln_bias.contiguous(), None, None), 0
    else:
        acc, labels = accumulator_dtype(a, b), columns
        shift = head_weight.to(acc) @ ln_bias.to(acc)
        shift = shift if head_bias is None else shift + head_bias.to(acc)
        parameters = (None, None, _fold(ln_weight, head_weight, acc), shift)
    with on_device(a):
        _forward_kernel[grid](
            a, b, None if instances is None else instances.contiguous(), *parameters, z, *_group_strides(a),
            b.stride(0), b.stride(1), num_instances, length, width, per_program, PRODUCT=product, LABELS=labels,
            EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l, BLOCK_D=block_d,
            BLOCK_C=triton.next_power_of_2(max(1, labels)), num_warps=warps,
        )  # fmt: skip
    return z


def _backward(
    dz: Tensor,
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    weight: Tensor | None,
    head: Tensor | None,
    eps: float,
    need_db: bool,
    need_sums: bool,
    product: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dz or dlogits -> (da, db, sums): the sums (2, d) or (C, d) over all rows that the kernel leaves, in the
    accumulator's dtype."""
    da = gradient_like(a)
    a, b = rowwise(a), rowwise(b)
    groups, num_instances = b.shape[:2]
    length, width = a.shape[-2:]
    chosen = tile("index_demux_backward" if head is None else "index_demux_head_backward", a)
    block_l, block_d, warps = row_tile(length, width, chosen["elements"], chosen["per_thread"])
    tiles = triton.cdiv(length, block_l)
    # Fewer, longer chunks leave fewer partial rows; enough of them keep every multiprocessor busy.
    chunks = min(tiles, triton.cdiv(chosen["programs"] * multiprocessors(a), groups))
    tiles_per_chunk = triton.cdiv(tiles, chunks)
    chunks = triton.cdiv(tiles, tiles_per_chunk)
    partial = {"dtype": accumulator_dtype(a, b), "device": a.device}
    labels = 0 if head is None else head.shape[0]
    db = None
    if need_db and instances is None:
        db = torch.empty((groups, chunks, num_instances, width), **partial)
    elif need_db and product:
        db = torch.empty((groups, length, width), **partial)
    sums = torch.empty((groups * chunks, labels or 2, width), **partial) if need_sums else None
    strides = (dz.stride(0), 0, dz.stride(1)) if instances is not None else dz.stride()[:3]
    with on_device(a):
        _backward_kernel[(groups * chunks,)](
            dz, a, b, None if instances is None else instances.contiguous(), weight, head, da, db, sums, *strides,
            *_group_strides(a), *_group_strides(da)[1:], b.stride(0), b.stride(1), num_instances, length, width,
            tiles_per_chunk, PRODUCT=product, LABELS=labels, EPS=eps, ACC=accumulator(a, b), BLOCK_L=block_l,
            BLOCK_D=block_d, num_warps=warps,
        )  # fmt: skip
    if need_db and instances is None:
        db = db.sum(1).to(b.dtype)
    elif need_db:
        db = _gather_by_instance(da if db is None else db, instances, num_instances).to(b.dtype)
    return da, db, None if sums is None else sums.sum(0)


def index_demux_backward(
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
        return gradient_like(a).zero_(), *_zeros((b, ln_weight, ln_weight))
    da, db, sums = _backward(
        rowwise(dz), a, b, instances, ln_weight.contiguous(), None, eps, need_db, need_dln, product
    )
    dln = (None, None) if sums is None else [row.clone().to(ln_weight.dtype) for row in sums]
    return da, *_present((db, *dln), da)


def index_demux_head_backward(
    dlogits: Tensor,
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    head_weight: Tensor,
    eps: float,
    need_db: bool,
    need_parameters: bool,
    product: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dlogits like the logits -> (da, db, dln_weight, dln_bias, dhead_weight (C, d)); those not needed come back
    empty."""
    labels = head_weight.shape[0]
    if dlogits.numel() == 0:
        zeros = _zeros((b, ln_weight, ln_bias, head_weight))
        return gradient_like(a).zero_(), *zeros
    if labels > _BACKWARD_LABELS or ln_weight.shape[0] > _BACKWARD_LABELS_ROW:
        dz = torch.matmul(dlogits.to(head_weight.dtype), head_weight).to(a.dtype)
        da, db, dln_weight, dln_bias = index_demux_backward(
            dz, a, b, instances, ln_weight, eps, need_db, need_parameters, product
        )
        dhead = None
        if need_parameters:
            z = index_demux_forward(a, b, instances, ln_weight, ln_bias, eps, product=product)
            dhead = (dlogits.flatten(0, -2).to(z.dtype).T @ z.flatten(0, -2)).to(head_weight.dtype)
        return da, db, dln_weight, dln_bias.to(ln_bias.dtype), *_present((dhead,), da)
    acc = accumulator_dtype(a, b)
    head = _fold(ln_weight, head_weight, acc)
    da, db, sums = _backward(rowwise(dlogits), a, b, instances, None, head, eps, need_db, need_parameters, product)
    dln_weight = dln_bias = dhead = None
    if need_parameters:
        total = dlogits.flatten(0, -2).sum(0, dtype=acc)
        dln_weight = (head_weight.to(acc) * sums).sum(0).to(ln_weight.dtype)
        dln_bias = (total @ head_weight.to(acc)).to(ln_bias.dtype)
        dhead = (sums * ln_weight.to(acc) + total[:, None] * ln_bias.to(acc)).to(head_weight.dtype)
    return da, *_present((db, dln_weight, dln_bias, dhead), da)


def _zeros(like: tuple[Tensor, ...]) -> list[Tensor]:
    """Of nothing, the gradients."""
    return [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in like]


def _present(gradients: tuple[Tensor | None, ...], like: Tensor) -> list[Tensor]:
    """Not needed means empty, never None: the registered op returns tensors, and no two of them the same."""
    return [like.new_empty(0) if gradient is None else gradient for gradient in gradients]


def _gather_by_instance(da: Tensor, instances: Tensor, num_instances: int) -> Tensor:
    """Sum da (G, L, d) over the positions that drew each instance -> (G, N, d): a GEMM with a 0/1 matrix, which,
    unlike a scatter with atomics, adds in a fixed order."""
    drawn = torch.nn.functional.one_hot(instances, num_instances).to(da.dtype)
    return drawn.mT @ da
