from __future__ import annotations

import torch

from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional


def inputs(G, N, L, d):
    return {"x": torch.randn(G, N, L, d), "instance_matrices": torch.randn(N, d, d) * d**-0.5}


def product(x, instance_matrices):
    """The formula of `fastmux.reference.orthogonal_mux` at scale 1. That multiplies matrix by vector, for which PyTorch
    copies the matrix for each of the G * N * L vectors: too much memory at these sizes."""
    return torch.einsum("nde,gnle->gld", instance_matrices, x)


def multiplexed(x, instance_matrices):
    """At scale 1, so that a bare product is the same number."""
    return functional.orthogonal_mux(x, instance_matrices, scale=1.0)


def gemm(x, instance_matrices):
    """`torch.matmul` and nothing else, on operands that `laid_out` has put so that it can take them as they lie: the
    rate that the op's is compared with."""
    G, N, L, d = x.shape
    rows = x.transpose(1, 2).view(G * L, N * d)
    return torch.matmul(rows, instance_matrices.mT.view(N * d, d)).view(G, L, d)


def laid_out(inputs):
    return {
        "x": inputs["x"].transpose(1, 2).contiguous().transpose(1, 2),
        "instance_matrices": inputs["instance_matrices"].mT.contiguous().mT,
    }


def elements(direction, G, N, L, d):
    # forward reads x and O, writes y; backward reads dy, x and O, writes dx and dO
    forward = G * N * L * d + N * d * d + G * L * d
    return forward if direction == "forward" else forward + G * N * L * d + N * d * d


def flops(direction, G, N, L, d):
    return (2 if direction == "forward" else 4) * G * N * L * d * d


OP = Op(
    "orthogonal_mux",
    multiplexed,
    product,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 4, "L": 24, "d": 192}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
    flops=flops,
    peers={"gemm": gemm},
    layouts={"gemm": laid_out},
)


@OP.cases
def test_orthogonal_mux(benchmark, case):
    case.run(benchmark)
