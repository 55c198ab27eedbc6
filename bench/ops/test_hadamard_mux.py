from __future__ import annotations

import torch

from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {"x": torch.randn(G, N, L, d), "instance_vectors": torch.randn(N, d)}


def elements(direction, G, N, L, d):
    # forward reads x, writes y; backward reads dy, and x for the gradient of v, and writes dx
    return G * N * L * d + G * L * d if direction == "forward" else G * L * d + 2 * G * N * L * d


OP = Op(
    "hadamard_mux",
    functional.hadamard_mux,
    reference.hadamard_mux,
    shapes=on_this_machine(
        cpu=[{"G": 4, "N": 10, "L": 128, "d": 768}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
)


@OP.cases
def test_hadamard_mux(benchmark, case):
    case.run(benchmark)
