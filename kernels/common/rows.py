"""What kernels that hold whole rows in registers share: GELU, standardising a row and its gradient, dropout masks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(u):
    """(GELU(u), GELU'(u)), the erf form.

    In float32 1 - erf(z) = (a_1 t + ... + a_5 t^5) exp(-z^2) with t = 1 / (1 + p z), wrong by 1.5e-7 at most
    (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26): the exponential is the derivative's own, and
    half the instructions of the library's erf are saved. 2^x and 1 / sqrt(x) are one instruction each, where e^x and a
    quotient are several.
    """
    if u.dtype == tl.float64:
        gauss = tl.exp(-0.5 * u * u)
        cdf = 0.5 * (1.0 + tl.math.erf(u * 0.7071067811865476))
    else:
        gauss = tl.exp2(-0.7213475204444817 * u * u)  # log2(e) / 2
        w = 1.0 + 0.2316418882663604 * tl.abs(u)  # p / sqrt(2), since z = |u| / sqrt(2)
        t = tl.rsqrt(w * w)
        # Half the coefficients: of erf / 2.
        tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
        tail *= gauss
        cdf = tl.where(u < 0.0, tail, 1.0 - tail)
    return u * cdf, cdf + u * 0.3989422804014327 * gauss


# A row of 768 features is three blocks of 256 columns, not one of 1024 a quarter of which is idle: tuples of tiles.
# ``in_row`` tells the last block's columns from padding.


@triton.jit
def load_blocks(ptrs, mask, ACC: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The blocks that begin at ``ptrs``, BLOCK_D apart."""
    xs = ()
    for i in tl.static_range(BLOCKS):
        xs = xs + (tl.load(ptrs + i * BLOCK_D, mask=mask, other=0.0).to(ACC),)
    return xs


@triton.jit
def store_blocks(ptrs, xs, mask, BLOCKS: tl.constexpr, BLOCK_D: tl.constexpr):
    for i in tl.static_range(BLOCKS):
        tl.store(ptrs + i * BLOCK_D, xs[i].to(ptrs.dtype.element_ty), mask=mask)


@triton.jit
def zero_blocks(shape: tl.constexpr, ACC: tl.constexpr, BLOCKS: tl.constexpr):
    xs = ()
    for _ in tl.static_range(BLOCKS):
        xs = xs + (tl.zeros(shape, dtype=ACC),)
    return xs


@triton.jit
def row_sums(xs, BLOCKS: tl.constexpr):
    """Sums over the columns of all blocks, which are added up before lanes talk to one another."""
    total = xs[0]
    for i in tl.static_range(1, BLOCKS):
        total += xs[i]
    return tl.sum(total, axis=1)


@triton.jit
def standardise(xs, in_row, width, EPS: tl.constexpr, EXACT: tl.constexpr, BLOCKS: tl.constexpr):
    """Rows, 0 in padding, to mean 0 and variance 1 over their ``width`` columns -> (x_hat, rstd). Two passes over
    registers, not sum and sum of squares: no cancellation when the mean is large. ``EXACT``: there is no padding."""
    mean = row_sums(xs, BLOCKS) / width
    centred = ()
    squares = ()
    for i in tl.static_range(BLOCKS):
        x = xs[i] - mean[:, None]
        if not EXACT:
            x = tl.where(in_row[None, :], x, 0.0)
        centred = centred + (x,)
        squares = squares + (x * x,)
    rstd = 1.0 / tl.sqrt(row_sums(squares, BLOCKS) / width + EPS)
    x_hat = ()
    for i in tl.static_range(BLOCKS):
        x_hat = x_hat + (centred[i] * rstd[:, None],)
    return x_hat, rstd


@triton.jit
def standardise_backward(dx_hat, x_hat, rstd, width, BLOCKS: tl.constexpr):
    """The gradient of `standardise`: dx_hat, 0 in padding, -> dx, whatever in padding."""
    products = ()
    for i in tl.static_range(BLOCKS):
        products = products + (dx_hat[i] * x_hat[i],)
    along = row_sums(products, BLOCKS) / width
    mean = row_sums(dx_hat, BLOCKS) / width
    dx = ()
    for i in tl.static_range(BLOCKS):
        dx = dx + ((dx_hat[i] - mean[:, None] - x_hat[i] * along[:, None]) * rstd[:, None],)
    return dx


@triton.jit
def dropout_keep(seed, rows, P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Which elements of rows (R) int64 dropout with probability ``P`` keeps: (R, D) booleans, drawn from
    (seed, row, column) and nothing else, so backward, with tiles of its own, draws them again.

    Philox gives four numbers a call, one each to four neighbouring columns: called once an element, as `tl.rand` does,
    it would cost more than all the rest of a memory-bound kernel. Seven rounds are what its authors found enough.
    """
    column = tl.arange(0, BLOCK_D // 4).to(tl.uint32)[None, :] + tl.zeros((BLOCK_R, BLOCK_D // 4), dtype=tl.uint32)
    low = (rows & 0xFFFFFFFF).to(tl.uint32)[:, None] + tl.zeros_like(column)
    high = (rows >> 32).to(tl.uint32)[:, None] + tl.zeros_like(column)
    r0, r1, r2, r3 = tl.philox(seed, column, low, high, tl.zeros_like(column), n_rounds=7)
    bits = tl.join(tl.join(r0, r2), tl.join(r1, r3)).reshape(BLOCK_R, BLOCK_D)
    return (bits >> 1).to(tl.int32) >= tl.full((), min(int(P * 2147483648.0), 2147483647), tl.int32)
