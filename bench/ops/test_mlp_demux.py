from __future__ import annotations

import torch

from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional, reference


def inputs(G, N, L, d):
    return {
        "h": torch.randn(G, L, d),
        "weight": torch.randn(N, d, d) * d**-0.5,
        "bias": torch.randn(N, d),
        "ln_weight": torch.randn(N, d) + 1,
        "ln_bias": torch.randn(N, d),
    }


def elements(direction, G, N, L, d):
    # forward reads h and the weights, writes z; backward reads dz, h and the weights, writes dh and dW
    own = G * L * d + N * d * d
    return own + G * N * L * d if direction == "forward" else 2 * own + G * N * L * d


def flops(direction, G, N, L, d):
    return (2 if direction == "forward" else 4) * G * N * L * d * d


OP = Op(
    "mlp_demux",
    functional.mlp_demux,
    reference.mlp_demux,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
    flops=flops,
)


@OP.cases
def test_mlp_demux(benchmark, case):
    case.run(benchmark)
