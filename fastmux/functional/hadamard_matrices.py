"""Hadamard matrices of order m * 2^k with m in {1, 12, 20, 28}, as Kronecker products of small ones.

H_m (x) H_2 (x) ... (x) H_2, with H_12, H_20 and H_28 by Paley's constructions and powers of two by Sylvester's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _paley(q: int) -> Tensor:
    """Paley's Hadamard matrix: of order q + 1 for a prime q = 3 mod 4, of order 2q + 2 for a prime q = 1 mod 4."""
    symbol = -torch.ones(q, dtype=torch.float64, device="cpu")
    i = torch.arange(q, device="cpu")
    symbol[i[1:] ** 2 % q] = 1
    symbol[0] = 0
    bordered = torch.ones(q + 1, q + 1, dtype=torch.float64, device="cpu")
    bordered[1:, 1:] = symbol[(i[:, None] - i) % q]
    bordered[0, 0] = 0
    eye = torch.eye(q + 1, dtype=torch.float64, device="cpu")
    if q % 4 == 3:
        bordered[1:, 0] = -1
        return eye + bordered
    plus, minus = torch.tensor([[[1, 1], [1, -1]], [[1, -1], [-1, -1]]], dtype=torch.float64, device="cpu")
    return torch.kron(bordered, plus) + torch.kron(eye, minus)


def sylvester(order: int) -> Tensor:
    i = torch.arange(order, device="cpu")
    common = i[:, None] & i
    parity = sum(((common >> bit) & 1 for bit in range(order.bit_length())), torch.zeros_like(common)) % 2
    return 1.0 - 2.0 * parity.double()


# In general not symmetric: the inverse of a transform is its transpose.
MATRICES = {12: _paley(11), 20: _paley(19), 28: _paley(13)} | {2**k: sylvester(2**k) for k in range(8)}
ODD_PART = {1: 1, 3: 12, 5: 20, 7: 28}


def check_order(op: str, name: str, width: int) -> None:
    """Raises ValueError unless a Hadamard matrix of order ``width`` is known here."""
    m = ODD_PART.get(width // (width & -width)) if width > 0 else None
    if m is None or width % m:
        raise ValueError(
            f"{op}: {name} has a last dimension of {width}, expected m * 2^k with m in {{1, 12, 20, 28}}: pad to one"
        )


def factor_orders(width: int, largest: int = 64) -> list[int]:
    """The orders of the matrices whose Kronecker product is the Hadamard matrix of order ``width``: m, if it is above
    1, and powers of two up to ``largest``."""
    m = ODD_PART[width // (width & -width)]
    powers = (width // m).bit_length() - 1
    parts = max(1, -(-powers // (largest.bit_length() - 1)))
    orders = [2 ** (powers // parts + (part < powers % parts)) for part in range(parts)]
    return ([m] if m > 1 else []) + [order for order in orders if order > 1]
