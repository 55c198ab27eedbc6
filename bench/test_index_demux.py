from __future__ import annotations

import torch

from bench.harness import Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {
        "h": torch.randn(G, L, d),
        "p": torch.randn(G, N, d),
        "weight": torch.randn(d, 2 * d) * d**-0.5,
        "bias": torch.randn(d),
        "ln_weight": torch.randn(d) + 1,
        "ln_bias": torch.randn(d),
    }


def elements(direction, G, N, L, d):
    # forward reads h and p, writes z; backward reads dz, h and p, writes dh and dp; weights are small beside them
    states = G * L * d + G * N * d
    return states + G * N * L * d if direction == "forward" else 2 * states + G * N * L * d


OP = Op(
    "index_demux",
    functional.index_demux,
    reference.index_demux,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}],
        gpu=[
            {"G": 64, "N": 2, "L": 128, "d": 768},
            {"G": 32, "N": 10, "L": 128, "d": 768},
            {"G": 8, "N": 40, "L": 128, "d": 768},
            {"G": 256, "N": 10, "L": 32, "d": 256},
            {"G": 4, "N": 10, "L": 512, "d": 1024},
            {"G": 2, "N": 10, "L": 128, "d": 4096},
        ],
    ),
    inputs=inputs,
    elements=elements,
)


@OP.cases
def test_index_demux(benchmark, case):
    case.run(benchmark)
