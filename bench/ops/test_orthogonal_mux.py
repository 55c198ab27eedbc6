from __future__ import annotations

import torch

from bench.harness import GROUPED, Op
from fastmux import functional, testing


def inputs(G, N, L, d):
    """Matrices as large as orthogonal ones. To make orthogonal ones would take longest of all at d = 4096."""
    return {"x": testing.normal(G, N, L, d), "instance_matrices": testing.normal(N, d, d) * d**-0.5}


def product(x, instance_matrices):
    """The formula of `fastmux.reference.orthogonal_mux` at scale 1. The reference multiplies matrices by vectors, and
    PyTorch copies the matrix for each of the G * N * L vectors, which is too much memory at these sizes."""
    return torch.einsum("nde,gnle->gld", instance_matrices, x)


def multiplexed(x, instance_matrices):
    """The op at scale 1, where a bare product gives the same numbers."""
    return functional.orthogonal_mux(x, instance_matrices, scale=1.0)


def gemm(x, instance_matrices):
    """`torch.matmul` and nothing else, on operands that `laid_out` has put in the right order. The op is compared with
    its rate."""
    G, N, L, d = x.shape
    rows = x.transpose(1, 2).view(G * L, N * d)
    return torch.matmul(rows, instance_matrices.mT.view(N * d, d)).view(G, L, d)


def laid_out(inputs):
    return {
        "x": inputs["x"].transpose(1, 2).contiguous().transpose(1, 2),
        "instance_matrices": inputs["instance_matrices"].mT.contiguous().mT,
    }


OP = Op(
    "orthogonal_mux",
    cpu=[{"G": 2, "N": 4, "L": 24, "d": 192}, {"G": 1, "N": 10, "L": 128, "d": 768}],
    gpu=GROUPED,
    function=multiplexed,
    reference=product,
    inputs=inputs,
    products=lambda G, N, L, d: G * N * L * d * d,
    peers={"gemm": gemm},
    layouts={"gemm": laid_out},
)

test_orthogonal_mux = OP.test()
