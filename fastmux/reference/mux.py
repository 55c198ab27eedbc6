"""Multiplexers: N sequences of embeddings to one."""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard_mux(x: Tensor, instance_vectors: Tensor, scale: float | None = None) -> Tensor:
    """``y = scale * sum_i v_i * x_i``: x (G, N, L, d), instance_vectors (N, d) -> (G, L, d); scale 1/N by default."""
    if scale is None:
        scale = 1.0 / x.shape[1]
    return scale * (instance_vectors[None, :, None, :] * x).sum(dim=1)


def orthogonal_mux(x: Tensor, instance_matrices: Tensor, scale: float | None = None) -> Tensor:
    """``y = scale * sum_i O_i x_i``: x (G, N, L, d), instance_matrices (N, d, d) -> (G, L, d); scale 1/sqrt(N)."""
    if scale is None:
        scale = x.shape[1] ** -0.5
    return scale * (instance_matrices[None, :, None] @ x[..., None]).squeeze(-1).sum(dim=1)


def hadamard_matrix(order: int) -> Tensor:
    """A Hadamard matrix of order m * 2^k, m in {1, 12, 20, 28}: entries +1 and -1, orthogonal rows; float64.

    Sylvester's construction doubles it: H_2n is [[H, H], [H, -H]] with the factor of order m outside, H_m (x) H_2^k.
    Orders 12 and 20 are Paley's first construction over q = 11 and 19, order 28 his second over q = 13. In general
    H is not symmetric: its inverse is the transpose, over the order.
    """
    m, q = {1: (1, 1), 3: (12, 11), 5: (20, 19), 7: (28, 13)}[order // (order & -order)]
    outer = torch.ones(1, 1, dtype=torch.float64)
    if m > 1:
        squares = {i * i % q for i in range(1, q)}
        skew = -1 if q % 4 == 3 else 1
        conference = torch.ones(q + 1, q + 1, dtype=torch.float64)
        conference[0, 0], conference[1:, 0] = 0, skew
        for i in range(q):
            for j in range(q):
                conference[i + 1, j + 1] = 0 if i == j else 1 if (i - j) % q in squares else -1
        eye = torch.eye(q + 1, dtype=torch.float64)
        if skew < 0:
            outer = eye + conference
        else:
            plus, minus = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[1.0, -1.0], [-1.0, -1.0]]], dtype=torch.float64)
            outer = torch.kron(conference, plus) + torch.kron(eye, minus)
    while outer.shape[0] < order:
        outer = torch.kron(outer, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return outer


def walsh_hadamard_mux(x: Tensor, inner_signs: Tensor, outer_signs: Tensor, scale: float | None = None) -> Tensor:
    """`orthogonal_mux` with ``O_i = H D_i H D'_i``, H orthonormal: x (G, N, L, d), the diagonals D' (inner_signs) and D
    (outer_signs) of signs (N, d) -> (G, L, d)."""
    h = (hadamard_matrix(x.shape[-1]) * x.shape[-1] ** -0.5).to(x)
    inner, outer = (signs.to(x) for signs in (inner_signs, outer_signs))
    return orthogonal_mux(x, h @ (outer[:, :, None] * h * inner[:, None, :]), scale)


def attention_mux(x: Tensor, instance_vectors: Tensor, over_positions, over_instances) -> Tensor:
    """MUX-PLM's contextual multiplexer.

    It mixes the positions of each instance, binds, mixes the instances at each position, and averages.

    x (G, N, L, d), instance_vectors (N, d); over_positions maps (G, L, d) and i, the instance, to (G, L, d), and
        over_instances maps (G, N, d) and l, the position, to (G, N, d) -> (G, L, d).
    """
    _, num_instances, length, _ = x.shape
    bound = torch.stack(
        [instance_vectors[i] * (x[:, i] + over_positions(x[:, i], i)) for i in range(num_instances)], dim=1
    )
    columns = [bound[:, :, l] + over_instances(bound[:, :, l], l) for l in range(length)]
    return torch.stack([column.mean(1) for column in columns], dim=1)
