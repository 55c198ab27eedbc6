from __future__ import annotations

import torch

from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {
        "h": torch.randn(G, L, d),
        "transforms": torch.randn(N, d),
        "weight": torch.randn(d, d) * d**-0.5,
        "bias": torch.randn(d),
        "ln_weight": torch.randn(d) + 1,
        "ln_bias": torch.randn(d),
    }


def elements(direction, G, N, L, d):
    # forward reads h and the weight, writes z; backward reads dz, h and the weight, writes dh and dW; v is small
    # beside them
    own = G * L * d + d * d
    return own + G * N * L * d if direction == "forward" else 2 * own + G * N * L * d


def flops(direction, G, N, L, d):
    return (2 if direction == "forward" else 4) * G * N * L * d * d


OP = Op(
    "unbind_demux",
    functional.unbind_demux,
    reference.unbind_demux,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
    flops=flops,
)


@OP.cases
def test_unbind_demux(benchmark, case):
    case.run(benchmark)
