from __future__ import annotations

import torch

from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {
        "a": torch.randn(G, L, d),
        "b": torch.randn(G, N, d),
        "ln_weight": torch.randn(d) + 1,
        "ln_bias": torch.randn(d),
    }


def elements(direction, G, N, L, d):
    # forward reads a and b, writes z; backward reads dz, a and b, writes da and db
    summands = G * L * d + G * N * d
    return summands + G * N * L * d if direction == "forward" else 2 * summands + G * N * L * d


OP = Op(
    "pair_norm",
    functional.pair_norm,
    reference.pair_norm,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
)


@OP.cases
def test_pair_norm(benchmark, case):
    case.run(benchmark)
