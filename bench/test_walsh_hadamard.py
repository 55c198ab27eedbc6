from __future__ import annotations

import torch

from bench.harness import Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    def signs():
        return torch.randint(0, 2, (N, d), dtype=torch.int8) * 2 - 1

    return {"x": torch.randn(G, N, L, d), "inner_signs": signs(), "outer_signs": signs()}


def elements(direction, G, N, L, d):
    # forward reads x, writes y; backward reads dy, writes dx; signs are small beside them
    return G * N * L * d + G * L * d


OP = Op(
    "walsh_hadamard_mux",
    functional.walsh_hadamard_mux,
    reference.walsh_hadamard_mux,
    # Small: the reference writes the matrices out and copies them for each of the G * N * L vectors.
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
    index_bytes=lambda N, d, **_: 2 * N * d,
)


@OP.cases
def test_walsh_hadamard(benchmark, case):
    case.run(benchmark)
