from __future__ import annotations

import torch

from bench import peers
from bench.harness import GROUPED, Op, on_this_machine
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
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
    peers=peers.installed(liger=peers.liger_index_demux),
)


@OP.cases
def test_index_demux(benchmark, case):
    case.run(benchmark)
