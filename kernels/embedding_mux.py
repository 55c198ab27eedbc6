"""``y[g, l] = scale * sum_i v[i] * Dropout(LN(word[ids[g, i, l]] + position[...] + token_type[...]))``, (G, L, d).

Without vectors ``y[g, l, i]`` is the embedding of each instance, (G, L, N, d). Bytes, s per element: forward gathers
s*G*N*L*d, mostly from L2, and writes s*G*L*d. Backward gathers as much, reads dy and adds G*N*L*d accumulators to the
word table. docs/kernels.md explains the tiles, the order of sums and ids that are out of range.

Longer than other files: forward and backward share their loads, and are read side by side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common.launch import accumulator, index_type, multiprocessors, on_device, register_limit, whole_rows
from .common.launch_table import launch_parameters
from .common.rows import (
    add_blocks,
    column_sums,
    columns,
    drop_blocks,
    full_blocks,
    is_row,
    load_blocks,
    look_up,
    multiply_blocks,
    standardise,
    standardise_backward,
    store_blocks,
)
from .common.tensors import accumulator_dtype, rowwise


@triton.jit
def _add_rows(
    xs, table_ptr, ids_ptr, at, rows, stride, live, cols, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds the rows ``ids[at]`` of a table to xs."""
    ids = tl.load(ids_ptr + at, mask=live, other=0).to(tl.int64)
    return add_blocks(xs, look_up(table_ptr + cols, ids, rows, stride, mask, ACC, BLOCKS, BLOCK_D), BLOCKS)


@triton.jit
def _shared_rows(
    position_ptr,
    position_ids_ptr,
    type_ptr,
    type_ids_ptr,
    l,
    live,
    cols,
    mask,
    positions,
    types,
    width,
    POSITION_SHARED: tl.constexpr,
    TYPE_SHARED: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The rows of positions and types that all instances share, which a program looks up once."""
    x = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    if POSITION_SHARED:
        x = _add_rows(x, position_ptr, position_ids_ptr, l, positions, width, live, cols, mask, ACC, BLOCKS, BLOCK_D)
    if TYPE_SHARED:
        x = _add_rows(x, type_ptr, type_ids_ptr, l, types, width, live, cols, mask, ACC, BLOCKS, BLOCK_D)
    return x


@triton.jit
def _own_rows(
    shared,
    row,
    word_ptr,
    position_ptr,
    position_ids_ptr,
    type_ptr,
    type_ids_ptr,
    at,
    live,
    cols,
    mask,
    words,
    positions,
    types,
    word_stride,
    width,
    POSITION_SHARED: tl.constexpr,
    TYPE_SHARED: tl.constexpr,
    ACC: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The embeddings of one instance, whose words are in rows ``row`` (R), before LayerNorm."""
    own = look_up(word_ptr + cols, row, words, word_stride, mask, ACC, BLOCKS, BLOCK_D)
    x = add_blocks(shared, own, BLOCKS)
    if position_ptr is not None and not POSITION_SHARED:
        x = _add_rows(x, position_ptr, position_ids_ptr, at, positions, width, live, cols, mask, ACC, BLOCKS, BLOCK_D)
    if type_ptr is not None and not TYPE_SHARED:
        x = _add_rows(x, type_ptr, type_ids_ptr, at, types, width, live, cols, mask, ACC, BLOCKS, BLOCK_D)
    return x


@triton.jit
def _affine(
    weight_ptr, bias_ptr, cols, in_row, FACTOR: tl.constexpr, ACC: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """LayerNorm's weight and bias times FACTOR, blocks (1, D). Without LayerNorm they are FACTOR and 0."""
    factor = full_blocks((1, BLOCK_D), FACTOR, ACC, BLOCKS)
    weight = factor
    bias = full_blocks((1, BLOCK_D), 0.0, ACC, BLOCKS)
    if weight_ptr is not None:
        weight = multiply_blocks(load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D), factor, BLOCKS)
        bias = multiply_blocks(load_blocks(bias_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D), factor, BLOCKS)
    return weight, bias


@triton.jit
def _forward_kernel(
    ids_ptr,  # (G, N, L) integers contiguous
    word_ptr,  # (V, d), unit stride along d
    position_ptr,  # (P, d) contiguous, or None
    position_ids_ptr,  # (L) if POSITION_SHARED, else (G, N, L), contiguous; None without positions
    type_ptr,  # (T, d) contiguous, or None
    type_ids_ptr,  # (L) if TYPE_SHARED, else (G, N, L), contiguous; None without types
    weight_ptr,  # (d), or None for no LayerNorm
    bias_ptr,  # (d), or None
    v_ptr,  # (N, d) contiguous, or None to keep the instances
    seed_ptr,  # () int64; None without dropout
    y_ptr,  # (G * L, d) contiguous; (G * L, N, d) without vectors
    words,  # V, P and T
    positions,
    types,
    word_stride,
    num_rows,  # G * L
    num_instances,
    length,
    width,
    POSITION_SHARED: tl.constexpr,
    TYPE_SHARED: tl.constexpr,
    EPS: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):
    FACTOR: tl.constexpr = SCALE / (1.0 - DROPOUT)
    rows = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < num_rows
    g = (rows // length).to(tl.int64)
    l = rows - g * length
    rows = rows.to(tl.int64)
    cols, in_row = columns(width, EXACT, BLOCKS, BLOCK_D)
    mask = live[:, None] & in_row
    shared = _shared_rows(
        position_ptr, position_ids_ptr, type_ptr, type_ids_ptr, l, live, cols, mask, positions, types, width,
        POSITION_SHARED, TYPE_SHARED, ACC, BLOCK_R, BLOCKS, BLOCK_D,
    )  # fmt: skip
    if DROPOUT > 0.0:
        seed = tl.load(seed_ptr)
    if v_ptr is None:
        weight, bias = _affine(weight_ptr, bias_ptr, cols, in_row, FACTOR, ACC, BLOCKS, BLOCK_D)
    # With vectors y = weight * sum_i v_i * x_i + bias * sum_i v_i, over elements that are not dropped.
    along = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    total = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    at = g * num_instances * length + l
    following = tl.load(ids_ptr + at, mask=live, other=0).to(tl.int64)
    for n in tl.range(0, num_instances):
        row = following
        # Loads the next id together with this instance's row, so that no row waits for its id.
        ahead = tl.where(n + 1 < num_instances, length, 0)
        following = tl.load(ids_ptr + at + ahead, mask=live, other=0).to(tl.int64)
        x = _own_rows(
            shared, row, word_ptr, position_ptr, position_ids_ptr, type_ptr, type_ids_ptr, at, live, cols, mask,
            words, positions, types, word_stride, width, POSITION_SHARED, TYPE_SHARED, ACC, BLOCKS, BLOCK_D,
        )  # fmt: skip
        if weight_ptr is not None:
            x, _rstd = standardise(x, live, in_row, width, EPS, EXACT, BLOCKS)
        if v_ptr is not None:
            v = load_blocks(v_ptr + n * width + cols, in_row, ACC, BLOCKS, BLOCK_D)
            if DROPOUT > 0.0:
                v = drop_blocks(v, seed, at, DROPOUT, BLOCK_R, BLOCKS, BLOCK_D)
            along = add_blocks(along, multiply_blocks(v, x, BLOCKS), BLOCKS)
            total = add_blocks(total, v, BLOCKS)
        else:
            y = add_blocks(multiply_blocks(x, weight, BLOCKS), bias, BLOCKS)
            if DROPOUT > 0.0:
                y = drop_blocks(y, seed, at, DROPOUT, BLOCK_R, BLOCKS, BLOCK_D)
            store_blocks(y_ptr + (rows * num_instances + n)[:, None] * width + cols, y, mask, BLOCKS, BLOCK_D)
        at += length
    if v_ptr is not None:
        weight, bias = _affine(weight_ptr, bias_ptr, cols, in_row, FACTOR, ACC, BLOCKS, BLOCK_D)
        y = add_blocks(multiply_blocks(along, weight, BLOCKS), multiply_blocks(total, bias, BLOCKS), BLOCKS)
        store_blocks(y_ptr + rows[:, None] * width + cols, y, mask, BLOCKS, BLOCK_D)


@triton.jit
def _scatter(table_ptr, xs, row, rows, padding, width, cols, mask, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Adds xs (R, D) to rows ``row`` (R) of a table with ``rows`` rows, except to row ``padding``."""
    wanted = mask & is_row(row, rows) & (row != padding)[:, None]
    ptrs = table_ptr + row[:, None] * width + cols
    for i in tl.static_range(BLOCKS):
        tl.atomic_add(ptrs + i * BLOCK_D, xs[i], mask=wanted, sem="relaxed")


@triton.jit
def _backward_kernel(
    dy_ptr,  # (G, L, d), or (G, N, L, d) without vectors; unit stride along d
    ids_ptr,  # as forward, to seed_ptr
    word_ptr,
    position_ptr,
    position_ids_ptr,
    type_ptr,
    type_ids_ptr,
    weight_ptr,
    v_ptr,
    seed_ptr,
    # All contiguous, in the accumulator's dtype, and None if not needed:
    dword_ptr,  # (V, d), zeros at first
    dposition_ptr,  # (P, d), zeros at first, if instances have their own positions
    dx_ptr,  # (G, N, L, d)
    dshared_ptr,  # (chunks, L, d)
    dtoken_type_ptr,  # (programs, T, d), zeros at first, if instances have their own types
    along_ptr,  # (programs, N, d), sums of dy * x_hat
    total_ptr,  # (programs, N, d), sums of dy; None without LayerNorm
    dy_stride_g,
    dy_stride_n,  # 0 with vectors
    dy_stride_l,
    words,  # V, P and T
    positions,
    types,
    word_stride,
    padding_idx,  # -1 for none
    position_padding_idx,
    groups,
    groups_per_chunk,
    num_instances,
    length,
    width,
    POSITION_SHARED: tl.constexpr,
    TYPE_SHARED: tl.constexpr,
    EPS: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):
    # Known at compile time: with fixed vectors or fixed tables, half of the work is not compiled.
    NEED_TABLES: tl.constexpr = (
        (dword_ptr is not None)
        or (dposition_ptr is not None)
        or (dx_ptr is not None)
        or (dshared_ptr is not None)
        or (dtoken_type_ptr is not None)
    )
    FACTOR: tl.constexpr = SCALE / (1.0 - DROPOUT)
    blocks_l = tl.cdiv(length, BLOCK_R)
    pid = tl.program_id(0)
    first = (pid // blocks_l) * groups_per_chunk
    last = tl.minimum(first + groups_per_chunk, groups)
    tl.assume(first < last)
    # Division is in 32 bits, offsets have 64.
    pid, chunk = pid.to(tl.int64), (pid // blocks_l).to(tl.int64)
    l = (pid - chunk * blocks_l) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = l < length
    cols, in_row = columns(width, EXACT, BLOCKS, BLOCK_D)
    mask = live[:, None] & in_row

    shared = _shared_rows(
        position_ptr, position_ids_ptr, type_ptr, type_ids_ptr, l, live, cols, mask, positions, types, width,
        POSITION_SHARED, TYPE_SHARED, ACC, BLOCK_R, BLOCKS, BLOCK_D,
    )  # fmt: skip
    dshared = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    # The outer loop runs over instances, the inner one over groups: an instance's sums stay in registers, and after the
    # first instance dy comes from the cache.
    for n in tl.range(0, num_instances):
        factor = full_blocks((1, BLOCK_D), FACTOR, ACC, BLOCKS)
        if v_ptr is not None:
            v = load_blocks(v_ptr + n * width + cols, in_row, ACC, BLOCKS, BLOCK_D)
            factor = multiply_blocks(factor, v, BLOCKS)
        if weight_ptr is not None:
            weight = load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D)
            factor = multiply_blocks(factor, weight, BLOCKS)
        # The sums keep a row dimension until the end, since sums over rows move data between threads.
        along = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
        total = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
        at = (tl.cast(first, tl.int64) * num_instances + n) * length + l
        following = tl.load(ids_ptr + at, mask=live, other=0).to(tl.int64)
        dy_ptrs = dy_ptr + tl.cast(first, tl.int64) * dy_stride_g + tl.cast(n, tl.int64) * dy_stride_n
        dy_ptrs = dy_ptrs + l[:, None] * dy_stride_l + cols
        for g in tl.range(first, last):
            row = following
            ahead = tl.where(g + 1 < last, num_instances * length, 0)
            following = tl.load(ids_ptr + at + ahead, mask=live, other=0).to(tl.int64)
            dy = load_blocks(dy_ptrs, mask, ACC, BLOCKS, BLOCK_D)
            if DROPOUT > 0.0:
                seed = tl.load(seed_ptr)  # here, as registers are full
                dy = drop_blocks(dy, seed, at, DROPOUT, BLOCK_R, BLOCKS, BLOCK_D)
            x = _own_rows(
                shared, row, word_ptr, position_ptr, position_ids_ptr, type_ptr, type_ids_ptr, at, live, cols, mask,
                words, positions, types, word_stride, width, POSITION_SHARED, TYPE_SHARED, ACC, BLOCKS, BLOCK_D,
            )  # fmt: skip
            if weight_ptr is not None:
                x, rstd = standardise(x, live, in_row, width, EPS, EXACT, BLOCKS)
            if along_ptr is not None:
                along = add_blocks(along, multiply_blocks(dy, x, BLOCKS), BLOCKS)
            if total_ptr is not None:
                total = add_blocks(total, dy, BLOCKS)
            dx = multiply_blocks(dy, factor, BLOCKS)
            if weight_ptr is not None and NEED_TABLES:
                dx = standardise_backward(dx, x, rstd, width, BLOCKS)
            if dx_ptr is not None:
                store_blocks(dx_ptr + at[:, None] * width + cols, dx, mask, BLOCKS, BLOCK_D)
            if dword_ptr is not None:
                # The most frequent word is padding. Its row gets no gradient, so it does not slow down atomics.
                _scatter(dword_ptr, dx, row, words, padding_idx, width, cols, mask, BLOCKS, BLOCK_D)
            if dposition_ptr is not None:
                position = tl.load(position_ids_ptr + at, mask=live, other=0).to(tl.int64)
                _scatter(
                    dposition_ptr, dx, position, positions, position_padding_idx, width, cols, mask, BLOCKS, BLOCK_D
                )
            if dtoken_type_ptr is not None:
                # There are few types: a sum over the tile for each is faster than atomics on the same few rows.
                kind = tl.load(type_ids_ptr + at, mask=live, other=-1).to(tl.int64)
                for t in tl.range(0, types):
                    ptrs = dtoken_type_ptr + (pid * types + t) * width + cols
                    seen = load_blocks(ptrs, in_row, ACC, BLOCKS, BLOCK_D)
                    for i in tl.static_range(BLOCKS):
                        of_type = tl.sum(tl.where((kind == t)[:, None], dx[i], 0.0), axis=0, keep_dims=True)
                        tl.store(ptrs + i * BLOCK_D, seen[i] + of_type, mask=in_row)
                # One thread may store a partial sum that another loads at the next tile.
                tl.debug_barrier()
            if dshared_ptr is not None:
                dshared = add_blocks(dshared, dx, BLOCKS)
            at += num_instances * length
            dy_ptrs += dy_stride_g
        sums_at = (pid * num_instances + n) * width + cols
        factor = full_blocks((1, BLOCK_D), FACTOR, ACC, BLOCKS)
        if along_ptr is not None:
            along = multiply_blocks(column_sums(along, BLOCKS), factor, BLOCKS)
            store_blocks(along_ptr + sums_at, along, in_row, BLOCKS, BLOCK_D)
        if total_ptr is not None:
            total = multiply_blocks(column_sums(total, BLOCKS), factor, BLOCKS)
            store_blocks(total_ptr + sums_at, total, in_row, BLOCKS, BLOCK_D)
    if dshared_ptr is not None:
        dshared_ptrs = dshared_ptr + (chunk * length + l)[:, None] * width + cols
        store_blocks(dshared_ptrs, dshared, mask, BLOCKS, BLOCK_D)


_MOST_TYPES = 8  # with more, a sum over the tile for each type takes longer than writing the rows' gradients


def _is_shared(ids: Tensor | None) -> bool:
    return ids is not None and ids.dim() == 1


def _rows(*tables: Tensor | None) -> list[int]:
    return [0 if table is None else table.shape[0] for table in tables]


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def embedding_mux_forward(operands: tuple[Tensor | None, ...], options: tuple) -> Tensor:
    """Returns y (G, L, d) in the dtype of the word table; without vectors (G, N, L, d), a view of (G, L, N, d).

    Args:
        operands: Ids (G, N, L), position and type ids (L) or (G, N, L), the tables of words (V, d), positions (P, d)
            and types (T, d), LayerNorm's weight and bias (d), vectors (N, d), the seed of dropout. All but ids and
            words may be None.
        options: eps, scale and the dropout probability.
    """
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, seed = operands
    eps, scale, dropout = options
    word = rowwise(word)
    groups, num_instances, length = ids.shape
    width = word.shape[1]
    shape = (groups, length, width) if v is not None else (groups, length, num_instances, width)
    y = torch.empty(shape, dtype=word.dtype, device=word.device)
    out = y if v is not None else y.transpose(1, 2)
    if y.numel() == 0:
        return out
    chosen = launch_parameters("embedding_mux_forward", word)
    options = whole_rows(groups * length, width, chosen["elements"], chosen["per_thread"])
    ids, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v = _contiguous(
        ids, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v
    )
    acc = accumulator(word, v)
    with on_device(word):
        _forward_kernel[(triton.cdiv(groups * length, options["BLOCK_R"]),)](
            ids, word, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v, seed, y,
            *_rows(word, position, token_type), word.stride(0), groups * length, num_instances, length, width,
            POSITION_SHARED=_is_shared(position_ids), TYPE_SHARED=_is_shared(type_ids), EPS=eps, SCALE=scale,
            DROPOUT=dropout, ACC=acc, INDEX=index_type(groups * length), **options, **register_limit(acc),
        )  # fmt: skip
    return out


def embedding_mux_backward(
    dy: Tensor, operands: tuple[Tensor | None, ...], options: tuple, padding_idx: int, position_padding_idx: int,
    need: list[bool], deterministic: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients of word, position, token_type, ln_weight, ln_bias and v, each in its tensor's dtype. Those
    that ``need`` leaves out are empty; ``need`` asks for no absent tensor. Padding
    indices are -1 for none. ``operands`` and ``options`` are those of forward."""
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, seed = operands
    eps, scale, dropout = options
    dy, word = rowwise(dy), rowwise(word)
    groups, num_instances, length = ids.shape
    width = word.shape[1]
    tensors = (word, position, token_type, ln_weight, ln_bias, v)
    if dy.numel() == 0:
        return tuple(
            torch.zeros_like(t, memory_format=torch.contiguous_format) if wanted else dy.new_zeros(0)
            for t, wanted in zip(tensors, need, strict=True)
        )
    need_word, need_position, need_type, need_weight, need_bias, need_v = need
    need_sums = need_weight or need_bias or need_v
    chosen = launch_parameters("embedding_mux_backward", dy)
    options = whole_rows(length, width, chosen["elements"], chosen["per_thread"])
    blocks_l = triton.cdiv(length, options["BLOCK_R"])
    # Long chunks leave few partial sums. There are as many programs as are resident at a time, so that no second wave
    # is nearly empty.
    wave = max(1, chosen["resident"] // options["num_warps"]) * multiprocessors(dy)
    chunks = min(groups, max(1, wave // blocks_l))
    per_chunk = triton.cdiv(groups, chunks)
    chunks = triton.cdiv(groups, per_chunk)
    programs = chunks * blocks_l

    ids, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v = _contiguous(
        ids, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v
    )
    own_position = need_position and not _is_shared(position_ids)
    own_type = need_type and not _is_shared(type_ids)
    many_types = own_type and token_type.shape[0] > _MOST_TYPES
    write_rows = (deterministic and (need_word or own_position)) or many_types
    shared = (need_position and not own_position) or (need_type and not own_type)

    strides = dy.stride()[:3] if v is None else (dy.stride(0), 0, dy.stride(1))
    acc = {"dtype": accumulator_dtype(word, v), "device": dy.device}
    dword = torch.zeros(word.shape, **acc) if need_word and not write_rows else None
    dposition = torch.zeros(position.shape, **acc) if own_position and not write_rows else None
    dx = torch.empty((groups, num_instances, length, width), **acc) if write_rows else None
    dshared = torch.empty((chunks, length, width), **acc) if shared else None
    dtoken_type = torch.zeros((programs, token_type.shape[0], width), **acc) if own_type and not many_types else None
    along = torch.empty((programs, num_instances, width), **acc) if need_sums else None
    total = torch.empty_like(along) if need_sums and ln_weight is not None else None
    kernel_acc = accumulator(word, v)
    with on_device(dy):
        _backward_kernel[(programs,)](
            dy, ids, word, position, position_ids, token_type, type_ids, ln_weight, v, seed, dword, dposition, dx,
            dshared, dtoken_type, along, total, *strides, *_rows(word, position, token_type), word.stride(0),
            padding_idx, position_padding_idx, groups, per_chunk, num_instances, length, width,
            POSITION_SHARED=_is_shared(position_ids), TYPE_SHARED=_is_shared(type_ids), EPS=eps, SCALE=scale,
            DROPOUT=dropout, ACC=kernel_acc, **options, **register_limit(kernel_acc),
        )  # fmt: skip

    rows = dshared.sum(0) if shared else None

    def scattered(table: Tensor, row_ids: Tensor, gradients: Tensor, padding: int) -> Tensor:
        # One more row, for ids that are out of range.
        rows, row_ids = table.shape[0], row_ids.reshape(-1)
        gradient = torch.zeros((rows + 1, width), **acc)
        row_ids = torch.where((row_ids >= 0) & (row_ids < rows), row_ids, rows)
        gradient.index_add_(0, row_ids, gradients.reshape(-1, width))
        if padding >= 0:
            gradient[padding] = 0
        return gradient[:rows]

    if need_word and dword is None:
        dword = scattered(word, ids, dx, padding_idx)
    if need_position and dposition is None:
        dposition = scattered(position, position_ids, dx if own_position else rows, position_padding_idx)
    if need_type:
        if dtoken_type is None:
            dtoken_type = scattered(token_type, type_ids, dx if own_type else rows, -1)
        else:
            dtoken_type = dtoken_type.sum(0)
    # The gradients of v and of LayerNorm's weight and bias come from two sums for each instance: dv_i = weight *
    # along_i + bias * total_i, dweight = sum_i v_i * along_i, dbias = sum_i v_i * total_i.
    along, total = (None if t is None else t.sum(0) for t in (along, total))
    dv = along
    factors = 1.0 if v is None else v.to(acc["dtype"])
    if total is not None and need_v:
        dv = ln_weight.to(along.dtype) * along + ln_bias.to(along.dtype) * total
    sums = (
        dword,
        dposition,
        dtoken_type,
        (factors * along).sum(0) if need_weight else None,
        (factors * total).sum(0) if need_bias else None,
        dv,
    )
    return tuple(
        gradient.to(t.dtype) if wanted else dy.new_zeros(0)
        for gradient, t, wanted in zip(sums, tensors, need, strict=True)
    )
