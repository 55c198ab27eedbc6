"""`walsh_hadamard`: the orthonormal Walsh-Hadamard transform of the last dimension, in O(d log d).

The Hadamard matrix of order d = m * 2^k is a Kronecker product, H_m (x) H_2 (x) ... (x) H_2. Its factors are grouped
into matrices of up to 64 rows, with one matrix product for each: 768 = 12 * 64 takes two products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmux.functional._checks import check_floating, is_fake
from fastmux.functional.hadamard_matrices import MATRICES, check_order, factor_orders


def walsh_hadamard(x: Tensor, *, transpose: bool = False) -> Tensor:
    """``x @ H.T`` with H the orthonormal Hadamard matrix of order d. With ``transpose``, ``x @ H``, the inverse.

    PyTorch multiplies with small matrices, on every device. H is not symmetric for every d, so in general applying the
    transform twice is not the identity.

    Args:
        x: (..., d) with d = m * 2^k, m in {1, 12, 20, 28}.
        transpose: Whether to apply the transpose of H.

    Returns:
        (..., d) in the dtype of ``x``.

    Raises:
        ValueError: d has another form, or x is not floating point.

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
    """Applies the factors one by one to the last dimension."""
    shape, before, behind = x.shape, x.shape[:-1].numel(), x.shape[-1]
    for rows in factor_orders(behind):
        behind //= rows
        matrix = _matrix(rows, transpose, x)
        x = x.reshape(before, rows, behind)
        x = torch.matmul(matrix, x) if behind > 1 else x.squeeze(-1) @ matrix.mT
        before *= rows
    return x.reshape(shape)


#: (order, transposed, dtype, device) -> matrix.
_matrices: dict[tuple[int, bool, torch.dtype, torch.device], Tensor] = {}


def _matrix(order: int, transpose: bool, x: Tensor) -> Tensor:
    """The orthonormal matrix of a small order in the dtype and on the device of ``x``. It is copied there once: a copy
    makes the host wait, and a CUDA graph cannot capture it."""
    if is_fake(x) and not torch.compiler.is_compiling():
        return x.new_empty(order, order)
    key = (order, transpose, x.dtype, x.device)
    if torch.compiler.is_compiling() or not _is_ordinary():
        return _made(*key)  # a traced graph must not keep it
    if key not in _matrices:
        with torch.inference_mode(False), torch.no_grad():  # a later call may record gradients
            _matrices[key] = _made(*key)
    return _matrices[key]


def _made(order: int, transpose: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = MATRICES[order] / math.sqrt(order)
    return (matrix.mT if transpose else matrix).to(device, dtype)


def _is_ordinary() -> bool:
    """Whether a tensor that is made now may be kept. One that is made within a dispatch mode or a function transform
    may not."""
    return torch._C._len_torch_dispatch_stack() == 0 and torch._C._functorch.peek_interpreter_stack() is None
