"""Functions for kernels that keep whole rows in registers: GELU, LayerNorm of a row and its gradient, dropout masks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_tail(u):
    """The normal density phi(u) and its tail Phi(-|u|).

    In float32 the tail is phi(u) * (c_0 + c_1 t + ... + c_5 t^5) with t = 1 / (1 + p |u|), the form of Abramowitz and
    Stegun, Handbook of Mathematical Functions, 7.1.26. p and c are fitted; the error is at most 1.1e-8. This takes half
    the instructions of the library's erf, and GELU's derivative needs phi anyway. 2^x and 1 / sqrt(x) are one
    instruction each, where e^x and a quotient are several.
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
    """GELU(u) and its derivative, in the erf form."""
    phi, tail = normal_tail(u)
    cdf = tl.where(u < 0.0, tail, 1.0 - tail)
    return u * cdf, cdf + u * phi


@triton.jit
def gelu_value(u):
    """GELU(u), with one instruction less than `gelu`."""
    _phi, tail = normal_tail(u)
    return tl.maximum(u, 0.0) - tl.abs(u) * tail


# A row is a tuple of blocks: 768 features are three blocks of 256 columns. In one block of 1024 a quarter would be
# idle.


@triton.jit
def columns(width, EXACT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The columns (1, D) of the first block, and a mask of those of the last block that are not padding. With ``EXACT``
    all are set."""
    cols = tl.arange(0, BLOCK_D)[None, :]
    return cols, (tl.full((1, BLOCK_D), True, tl.int1) if EXACT else cols < width - (BLOCKS - 1) * BLOCK_D)


@triton.jit
def load_blocks(ptrs, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Loads the blocks of a row that begins at ``ptrs``."""
    xs = ()
    for i in tl.static_range(BLOCKS):
        xs = xs + (tl.load(ptrs + i * BLOCK_D, mask=mask, other=0.0).to(ACC),)
    return xs


@triton.jit
def is_row(row, rows):
    """Whether each of ``row`` (R) is a row of a table with ``rows`` rows, (R, 1)."""
    return ((row >= 0) & (row < rows))[:, None]


@triton.jit
def look_up(ptrs, row, rows, stride, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Loads rows ``row`` (R) of a table whose first row begins at ``ptrs`` (1, D). For numbers that are out of range
    nothing is read, and the row is NaN."""
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
    """Sums over the columns of all blocks. Blocks are added up first, so that data moves between lanes only once."""
    total = xs[0]
    for i in tl.static_range(1, BLOCKS):
        total += xs[i]
    return tl.sum(total, axis=1)


@triton.jit
def standardise(xs, live, in_row, width, EPS: tl.constexpr, EXACT: tl.constexpr, BLOCKS: tl.constexpr):
    """Normalises rows to mean 0 and variance 1 over their ``width`` columns: returns x_hat and rstd. xs must be 0 in
    padding.

    Both are 0 for rows that are not ``live``: with an EPS of 0 their rstd would be infinite. Two passes over registers
    avoid the cancellation of a sum of squares when the mean is large.
    """
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
    """The gradient of `standardise`: dx for dx_hat, which must be 0 in padding. In padding, dx is undefined."""
    share = rstd / tl.cast(width, rstd.dtype)
    along = row_sums(multiply_blocks(dx_hat, x_hat, BLOCKS), BLOCKS) * share
    mean = row_sums(dx_hat, BLOCKS) * share
    dx = ()
    for i in tl.static_range(BLOCKS):
        dx = dx + (dx_hat[i] * rstd[:, None] - (x_hat[i] * along[:, None] + mean[:, None]),)
    return dx


@triton.jit
def dropout_keep(seed, rows, column, P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """The dropout mask (R, D), True for elements that are kept, of rows (R) int64 and BLOCK_D columns from ``column``
    on, a multiple of 8.

    It depends only on seed, row and column, so backward draws it again with other tiles. P is rounded to a multiple of
    2^-16. A call of Philox gives four numbers of 32 bits, half a number for each of eight neighbouring columns. One
    call per element, as in `tl.rand`, would cost more than the rest of a memory-bound kernel. Seven rounds are enough
    according to Philox's authors.
    """
    eighth = (column // 8 + tl.arange(0, BLOCK_D // 8)).to(tl.uint32)[None, :]
    eighth += tl.zeros((BLOCK_R, BLOCK_D // 8), dtype=tl.uint32)
    low = (rows & 0xFFFFFFFF).to(tl.uint32)[:, None] + tl.zeros_like(eighth)
    high = (rows >> 32).to(tl.uint32)[:, None] + tl.zeros_like(eighth)
    r0, r1, r2, r3 = tl.philox(seed, eighth, low, high, tl.zeros_like(eighth), n_rounds=7)
    bits = tl.join(tl.join(r0, r2), tl.join(r1, r3))
    # Only the upper half of a number decides.
    bits = tl.join(bits, bits << 16).reshape(BLOCK_R, BLOCK_D)
    return bits >= tl.full((), min(int(P * 65536.0 + 0.5), 65535) * 65536, tl.uint32)


@triton.jit
def drop_blocks(xs, seed, rows, P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Applies dropout, without its scale, to blocks (R, D) or (1, D) of rows (R)."""
    kept = ()
    for i in tl.static_range(BLOCKS):
        kept = kept + (tl.where(dropout_keep(seed, rows, i * BLOCK_D, P, BLOCK_R, BLOCK_D), xs[i], 0.0),)
    return kept
