"""What kernels that hold whole rows in registers share: GELU, standardising a row and its gradient, dropout masks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(u):
    """(GELU(u), GELU'(u)), the exact erf form."""
    cdf = 0.5 * (1.0 + tl.math.erf(u * 0.7071067811865476))
    return u * cdf, cdf + u * 0.3989422804014327 * tl.exp(-0.5 * u * u)


@triton.jit
def standardise(x, valid, width, EPS: tl.constexpr):
    """Rows of x (R, D) to mean 0 and variance 1 over their ``width`` valid columns -> (x_hat, rstd). Two passes over
    registers, not sum and sum of squares: no cancellation when the mean is large."""
    mean = tl.sum(x, axis=1) / width
    centred = tl.where(valid, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + EPS)
    return centred * rstd[:, None], rstd


@triton.jit
def standardise_backward(dx_hat, x_hat, rstd, valid, width):
    """The gradient of `standardise`: dx_hat (R, D), 0 outside ``width``, -> dx (R, D), 0 outside ``valid``."""
    along = tl.sum(dx_hat * x_hat, axis=1) / width
    mean = tl.sum(dx_hat, axis=1) / width
    return tl.where(valid, (dx_hat - mean[:, None] - x_hat * along[:, None]) * rstd[:, None], 0.0)


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
