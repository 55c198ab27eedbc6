"""Embedding, LayerNorm, dropout, scale and sum over instances in one pass: (G, N, L, d) never exists.

``y[g, l] = scale * sum_i v[i] * Dropout(LN(word[ids[g, i, l]] + position[...] + token_type[...]))``

Without vectors every instance's embedding is kept: ``y[g, l, i]``, position by position the N rows one after the other,
as the GEMM of `orthogonal_mux` reads them. The same kernels then store in the loop over instances what they would sum.

Traffic, s bytes an element: forward gathers s*G*N*L*d, mostly from L2, and writes s*G*L*d. Backward gathers as much,
reads dy and adds as many elements of the accumulator to the word table. Ids, tables and a seed are all it needs.

An id that is no row of its table reads nothing and makes the row's result NaN, and adds nothing to the table's
gradient; what else its row adds to is NaN.

Forward takes rows (g, l) through all instances. Backward takes a block of positions through all instances of a chunk
of groups: what instances and groups share (positions, types, LayerNorm, v) then adds up in registers, and is left as
one partial a program, to be summed in a fixed order. Rows of the word table are added to by atomics; the deterministic
route writes the rows' gradients (G, N, L, d) instead and leaves the sum to `torch.Tensor.index_add_`.

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
    """xs and rows ``ids[at]`` of a table."""
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
    """What all instances add to their word rows: looked up once a program."""
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
    """LayerNorm's weight and bias, times FACTOR: blocks (1, D), or numbers where there is no LayerNorm."""
    factor = full_blocks((1, BLOCK_D), FACTOR, ACC, BLOCKS)
    weight = factor
    bias = full_blocks((1, BLOCK_D), 0.0, ACC, BLOCKS)
    if weight_ptr is not None:
        weight = multiply_blocks(load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D), factor, BLOCKS)
        bias = multiply_blocks(load_blocks(bias_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D), factor, BLOCKS)
    return weight, bias


# Seeds differ from call to call: specialised on their value, a kernel would be compiled anew for one in sixteen.
@triton.jit(do_not_specialize=["seed"])
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
    y_ptr,  # (G * L, d) contiguous; (G * L, N, d) without vectors
    words,  # V, P and T
    positions,
    types,
    word_stride,
    seed,
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
    if v_ptr is None:
        weight, bias = _affine(weight_ptr, bias_ptr, cols, in_row, FACTOR, ACC, BLOCKS, BLOCK_D)
    # With vectors y = weight * sum_i v_i * x_i + bias * sum_i v_i, of what is not dropped: weight and bias come last.
    along = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    total = full_blocks((BLOCK_R, BLOCK_D), 0.0, ACC, BLOCKS)
    at = g * num_instances * length + l
    following = tl.load(ids_ptr + at, mask=live, other=0).to(tl.int64)
    for n in tl.range(0, num_instances):
        row = following
        # On its way while this instance's row is: else an id would be waited for before every row.
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
    """Adds xs (R, D) to rows ``row`` (R) of a table that has so many, but to row ``padding``."""
    wanted = mask & is_row(row, rows) & (row != padding)[:, None]
    ptrs = table_ptr + row[:, None] * width + cols
    for i in tl.static_range(BLOCKS):
        tl.atomic_add(ptrs + i * BLOCK_D, xs[i], mask=wanted, sem="relaxed")


@triton.jit(do_not_specialize=["seed"])
def _backward_kernel(
    dy_ptr,  # (G, L, d), or (G, N, L, d) without vectors; unit stride along d
    ids_ptr,  # as forward, to v_ptr
    word_ptr,
    position_ptr,
    position_ids_ptr,
    type_ptr,
    type_ids_ptr,
    weight_ptr,
    v_ptr,
    # All contiguous, in the accumulator's dtype, and None where not wanted:
    dword_ptr,  # (V, d) zeros, added to
    dposition_ptr,  # (P, d) zeros, added to, for positions of the rows' own
    dx_ptr,  # (G, N, L, d)
    dshared_ptr,  # (chunks, L, d)
    dtoken_type_ptr,  # (programs, T, d) zeros, for types of the rows' own
    along_ptr,  # (programs, N, d), sums of dy * x_hat
    total_ptr,  # (programs, N, d), sums of dy; None without LayerNorm
    dy_stride_g,
    dy_stride_n,  # 0 with vectors
    dy_stride_l,
    words,  # V, P and T
    positions,
    types,
    word_stride,
    seed,
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
    # Compile-time: with fixed vectors, or fixed tables, the other half of the work is not compiled at all.
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
    # Divided in 32 bits; 64 for whatever offsets grow from.
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
    # Instances outside, groups inside: an instance's sums stay in registers, and dy comes from the cache after the
    # first instance.
    for n in tl.range(0, num_instances):
        factor = full_blocks((1, BLOCK_D), FACTOR, ACC, BLOCKS)
        if v_ptr is not None:
            v = load_blocks(v_ptr + n * width + cols, in_row, ACC, BLOCKS, BLOCK_D)
            factor = multiply_blocks(factor, v, BLOCKS)
        if weight_ptr is not None:
            weight = load_blocks(weight_ptr + cols, in_row, ACC, BLOCKS, BLOCK_D)
            factor = multiply_blocks(factor, weight, BLOCKS)
        # Row by row to the end: sums over rows go from thread to thread.
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
                # Padding is the commonest word of all, and its row gets no gradient: no queue for it here.
                _scatter(dword_ptr, dx, row, words, padding_idx, width, cols, mask, BLOCKS, BLOCK_D)
            if dposition_ptr is not None:
                position = tl.load(position_ids_ptr + at, mask=live, other=0).to(tl.int64)
                _scatter(
                    dposition_ptr, dx, position, positions, position_padding_idx, width, cols, mask, BLOCKS, BLOCK_D
                )
            if dtoken_type_ptr is not None:
                # A handful of types: a sum over the tile for each beats atomics that all meet in the same rows.
                kind = tl.load(type_ids_ptr + at, mask=live, other=-1).to(tl.int64)
                for t in tl.range(0, types):
                    ptrs = dtoken_type_ptr + (pid * types + t) * width + cols
                    seen = load_blocks(ptrs, in_row, ACC, BLOCKS, BLOCK_D)
                    for i in tl.static_range(BLOCKS):
                        of_type = tl.sum(tl.where((kind == t)[:, None], dx[i], 0.0), axis=0, keep_dims=True)
                        tl.store(ptrs + i * BLOCK_D, seen[i] + of_type, mask=in_row)
                # One thread may store the partial that another loads at the next tile.
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


_MOST_TYPES = 8  # more, and one sum over the tile for each type costs more than writing the rows' gradients


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
            and types (T, d), LayerNorm's weight and bias (d), vectors (N, d). All but ids and words may be None.
        options: eps, scale, the dropout probability and its seed, and the rows of the word and position tables that get
            no gradient, or None.
    """
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v = operands
    eps, scale, dropout, seed, _padding_idx, _position_padding_idx = options
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
            ids, word, position, position_ids, token_type, type_ids, ln_weight, ln_bias, v, y,
            *_rows(word, position, token_type), word.stride(0), seed, groups * length, num_instances, length, width,
            POSITION_SHARED=_is_shared(position_ids), TYPE_SHARED=_is_shared(type_ids), EPS=eps, SCALE=scale,
            DROPOUT=dropout, ACC=acc, INDEX=index_type(groups * length), **options, **register_limit(acc),
        )  # fmt: skip
    return out


def embedding_mux_backward(
    dy: Tensor, operands: tuple[Tensor | None, ...], options: tuple, need: list[bool], deterministic: bool
) -> tuple[Tensor, ...]:
    """Returns the gradients of word, position, token_type, ln_weight, ln_bias and v, each in its tensor's dtype. Those
    that ``need`` leaves out are empty; ``need`` asks for no absent tensor. The other arguments are those of forward."""
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v = operands
    eps, scale, dropout, seed, *paddings = options
    padding_idx, position_padding_idx = (-1 if row is None else row for row in paddings)
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
    # Fewer, longer chunks leave fewer partials; as many as are resident at a time, and no second wave of a few.
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
            dy, ids, word, position, position_ids, token_type, type_ids, ln_weight, v, dword, dposition, dx, dshared,
            dtoken_type, along, total, *strides, *_rows(word, position, token_type), word.stride(0), seed, padding_idx,
            position_padding_idx, groups, per_chunk, num_instances, length, width,
            POSITION_SHARED=_is_shared(position_ids), TYPE_SHARED=_is_shared(type_ids), EPS=eps, SCALE=scale,
            DROPOUT=dropout, ACC=kernel_acc, **options, **register_limit(kernel_acc),
        )  # fmt: skip

    rows = dshared.sum(0) if shared else None

    def scattered(table: Tensor, row_ids: Tensor, gradients: Tensor, padding: int) -> Tensor:
        # One row more, for what has no row in the table.
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
    # What LayerNorm hands to v and to its own weight and bias are the same two sums for each instance:
    # dv_i = weight * along_i + bias * total_i, dweight = sum_i v_i * along_i, dbias = sum_i v_i * total_i.
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
