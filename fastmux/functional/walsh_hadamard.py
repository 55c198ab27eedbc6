"""`walsh_hadamard`: the orthonormal Walsh-Hadamard transform of the last dimension, in O(d log d).

The Hadamard matrix of order d = m * 2^k is a Kronecker product, H_m (x) H_2 (x) ... (x) H_2, and a Kronecker product of
matrices of up to 64 rows is a matrix product for each: 768 = 12 * 64 takes two, of 12 and of 64 columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmux.functional._checks import check_floating
from fastmux.functional.hadamard_matrices import check_order, hadamard_factors


def walsh_hadamard(x: Tensor, *, transpose: bool = False) -> Tensor:
    """``x @ H.T``, with H the orthonormal Hadamard matrix of order d; ``x @ H`` with ``transpose``, the inverse.

    On any device products with small matrices, by PyTorch: one for a factor of at most 64 rows. H is not symmetric for
    every d, so applying the transform twice is not in general the identity.

    Args:
        x: (..., d), d = m * 2^k with m in {1, 12, 20, 28}.

    Returns:
        (..., d) in the dtype of ``x``.

    Raises:
        ValueError: if d is of another form, or x is not floating point.

    Example:
        >>> import torch
        >>> from fastmux.functional import walsh_hadamard
        >>> walsh_hadamard(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    check_floating("walsh_hadamard", x=x)
    check_order("walsh_hadamard", "x", x.shape[-1] if x.dim() else 0)
    return transform(x, transpose)


def transform(x: Tensor, transpose: bool) -> Tensor:
    """Factor by factor over the last dimension; every other keeps its place."""
    shape, before, behind = x.shape, x.shape[:-1].numel(), x.shape[-1]
    for factor in hadamard_factors(behind):
        rows = factor.shape[0]
        behind //= rows
        matrix = ((factor.mT if transpose else factor) / math.sqrt(rows)).to(x)
        x = x.reshape(before, rows, behind)
        x = torch.matmul(matrix, x) if behind > 1 else x.squeeze(-1) @ matrix.mT
        before *= rows
    return x.reshape(shape)
