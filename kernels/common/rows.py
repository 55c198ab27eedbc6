"""What kernels that hold whole rows in registers share: GELU, standardising a row and its gradient, dropout masks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_tail(u):
    """(phi(u), the normal density, Phi(-|u|), its tail).

    In float32 the tail is phi(u) * (c_0 + c_1 t + ... + c_5 t^5) with t = 1 / (1 + p |u|), wrong by 1.1e-8 at most: p
    and c are fitted to that (the form is that of Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
    GELU's derivative needs phi anyway, and half the instructions of the library's erf are saved. 2^x and 1 / sqrt(x)
    are one instruction each, where e^x and a quotient are several.
    """
    magnitude = tl.abs(u)
    if u.dtype == tl.float64:
        phi = 0.3989422804014327 * tl.exp(-0.5 * u * u)
        tail = 0.5 - 0.5 * tl.math.erf(magnitude * 0.7071067811865476)
    else:
        phi = tl.exp2(-0.7213475204444817 * (u * u) - 1.3257480647361592)  # log2(e) / 2, log2(sqrt(2 pi))
        w = 1.0 + 0.313972 * magnitude
        t = tl.rsqrt(w * w)
        tail = 0.931670369 + t * (-0.887877135 + t * (1.38926766 + t * -0.343194964))
        tail = phi * (0.0192621429 + t * (0.144186044 + t * tail))
    return phi, tail


@triton.jit
def gelu(u):
    """(GELU(u), GELU'(u)), the erf form."""
    phi, tail = normal_tail(u)
    cdf = tl.where(u < 0.0, tail, 1.0 - tail)
    return u * cdf, cdf + u * phi


@triton.jit
def gelu_value(u):
    """GELU(u): an instruction less than with its derivative."""
    _phi, tail = normal_tail(u)
    return tl.maximum(u, 0.0) - tl.abs(u) * tail


# A row of 768 features is three blocks of 256 columns, not one of 1024 a quarter of which is idle: tuples of tiles.


@triton.jit
def columns(width, EXACT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The columns (1, D) of the first block, and which of the last block's are no padding: with ``EXACT`` all are."""
    cols = tl.arange(0, BLOCK_D)[None, :]
    return cols, (tl.full((1, BLOCK_D), True, tl.int1) if EXACT else cols < width - (BLOCKS - 1) * BLOCK_D)


@triton.jit
def load_blocks(ptrs, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The blocks that begin at ``ptrs``, BLOCK_D apart."""
    xs = ()
    for i in tl.static_range(BLOCKS):
        xs = xs + (tl.load(ptrs + i * BLOCK_D, mask=mask, other=0.0).to(ACC),)
    return xs


@triton.jit
def is_row(row, rows):
    """Which of ``row`` (R) are rows of a table that has so many: (R, 1)."""
    return ((row >= 0) & (row < rows))[:, None]


@triton.jit
def look_up(ptrs, row, rows, stride, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows ``row`` (R) of a table whose first row begins at ``ptrs`` (1, D); NaN for what is no row of it, in whose
    place nothing is read."""
    there = is_row(row, rows)
    other = tl.where(there, 0.0, float("nan"))
    ptrs += row[:, None] * stride
    xs = ()
    for i in tl.static_range(BLOCKS):
        xs = xs + (tl.load(ptrs + i * BLOCK_D, mask=mask & there, other=other).to(ACC),)
    return xs


@triton.jit
def store_blocks(ptrs, xs, mask, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    for i in tl.static_range(BLOCKS):
        tl.store(ptrs + i * BLOCK_D, xs[i].to(ptrs.dtype.element_ty), mask=mask)


@triton.jit
def full_blocks(shape: tl.constexpr, value, ACC: tl.constexpr, BLOCKS: tl.constexpr):
    xs = ()
    for _ in tl.static_range(BLOCKS):
        xs = xs + (tl.full(shape, value, ACC),)
    return xs


@triton.jit
def add_blocks(xs, ys, BLOCKS: tl.constexpr):
    sums = ()
    for i in tl.static_range(BLOCKS):
        sums = sums + (xs[i] + ys[i],)
    return sums


@triton.jit
def multiply_blocks(xs, ys, BLOCKS: tl.constexpr):
    products = ()
    for i in tl.static_range(BLOCKS):
        products = products + (xs[i] * ys[i],)
    return products


@triton.jit
def column_sums(xs, BLOCKS: tl.constexpr):
    """Blocks (R, D) -> (1, D), summed over rows."""
    sums = ()
    for i in tl.static_range(BLOCKS):
        sums = sums + (tl.sum(xs[i], axis=0, keep_dims=True),)
    return sums


@triton.jit
def row_sums(xs, BLOCKS: tl.constexpr):
    """Sums over the columns of all blocks, which are added up before lanes talk to one another."""
    total = xs[0]
    for i in tl.static_range(1, BLOCKS):
        total += xs[i]
    return tl.sum(total, axis=1)


@triton.jit
def standardise(xs, live, in_row, width, EPS: tl.constexpr, EXACT: tl.constexpr, BLOCKS: tl.constexpr):
    """Rows, 0 in padding, to mean 0 and variance 1 over their ``width`` columns -> (x_hat, rstd), both 0 for rows that
    are not ``live``, whose variance of 0 an EPS of 0 leaves as it is. Two passes over registers, not sum and sum of
    squares: no cancellation when the mean is large."""
    share = 1.0 / tl.cast(width, xs[0].dtype)
    mean = row_sums(xs, BLOCKS) * share
    centred = ()
    for i in tl.static_range(BLOCKS):
        x = xs[i] - mean[:, None]
        if not EXACT:
            x = tl.where(in_row, x, 0.0)
        centred = centred + (x,)
    rstd = tl.rsqrt(row_sums(multiply_blocks(centred, centred, BLOCKS), BLOCKS) * share + EPS)
    rstd = tl.where(live, rstd, 0.0)
    x_hat = ()
    for i in tl.static_range(BLOCKS):
        x_hat = x_hat + (centred[i] * rstd[:, None],)
    return x_hat, rstd


@triton.jit
def standardise_backward(dx_hat, x_hat, rstd, width, BLOCKS: tl.constexpr):
    """The gradient of `standardise`: dx_hat, 0 in padding, -> dx, whatever in padding."""
    share = rstd / tl.cast(width, rstd.dtype)
    along = row_sums(multiply_blocks(dx_hat, x_hat, BLOCKS), BLOCKS) * share
    mean = row_sums(dx_hat, BLOCKS) * share
    dx = ()
    for i in tl.static_range(BLOCKS):
        dx = dx + (dx_hat[i] * rstd[:, None] - (x_hat[i] * along[:, None] + mean[:, None]),)
    return dx


@triton.jit
def dropout_keep(seed, rows, column, P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Which elements of rows (R) int64 and the BLOCK_D columns from ``column`` on, a multiple of 8, dropout with
    probability ``P``, in steps of 2^-16, keeps: (R, D) booleans, drawn from (seed, row, column) and nothing else, so
    backward, with tiles of its own, draws them again.

    Philox gives four numbers of 32 bits a call, of which eight neighbouring columns take half a one each: called once
    an element, as `tl.rand` does, it would cost more than all the rest of a memory-bound kernel. Seven rounds are what
    its authors found enough.
    """
    eighth = (column // 8 + tl.arange(0, BLOCK_D // 8)).to(tl.uint32)[None, :]
    eighth += tl.zeros((BLOCK_R, BLOCK_D // 8), dtype=tl.uint32)
    low = (rows & 0xFFFFFFFF).to(tl.uint32)[:, None] + tl.zeros_like(eighth)
    high = (rows >> 32).to(tl.uint32)[:, None] + tl.zeros_like(eighth)
    r0, r1, r2, r3 = tl.philox(seed, eighth, low, high, tl.zeros_like(eighth), n_rounds=7)
    bits = tl.join(tl.join(r0, r2), tl.join(r1, r3))
    # The half that counts is the upper one, whatever the lower.
    bits = tl.join(bits, bits << 16).reshape(BLOCK_R, BLOCK_D)
    return bits >= tl.full((), min(int(P * 65536.0 + 0.5), 65535) * 65536, tl.uint32)


@triton.jit
def drop_blocks(xs, seed, rows, P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Blocks (R, D), or (1, D), of rows (R) with 0 for what is dropped."""
    kept = ()
    for i in tl.static_range(BLOCKS):
        kept = kept + (tl.where(dropout_keep(seed, rows, i * BLOCK_D, P, BLOCK_R, BLOCK_D), xs[i], 0.0),)
    return kept
