from __future__ import annotations

import torch

from bench.harness import Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {"x": torch.randn(G, N, L, d), "instance_matrices": torch.randn(N, d, d) * d**-0.5}


def elements(direction, G, N, L, d):
    # forward reads x and O, writes y; backward reads dy, x and O, writes dx and dO
    forward = G * N * L * d + N * d * d + G * L * d
    return forward if direction == "forward" else forward + G * N * L * d + N * d * d


def flops(direction, G, N, L, d):
    return (2 if direction == "forward" else 4) * G * N * L * d * d


OP = Op(
    "orthogonal_mux",
    functional.orthogonal_mux,
    reference.orthogonal_mux,
    # Small: the reference multiplies matrix by vector, and PyTorch copies the matrix for each of the G * N * L vectors.
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 4, "L": 24, "d": 192}],
        gpu=[
            {"G": 16, "N": 2, "L": 128, "d": 256},
            {"G": 4, "N": 10, "L": 128, "d": 256},
            {"G": 1, "N": 40, "L": 16, "d": 768},
        ],
    ),
    inputs=inputs,
    elements=elements,
    flops=flops,
)


@OP.cases
def test_orthogonal_mux(benchmark, case):
    case.run(benchmark)
