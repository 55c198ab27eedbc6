from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import peers
from bench.harness import Op, on_this_machine
from fastmux import functional


def inputs(R, V, d):
    return {
        "hidden": torch.randn(R, d),
        "weight": torch.randn(V, d) * d**-0.5,
        "target": torch.randint(V, (R,)),
        "bias": torch.randn(V),
    }


def all_logits(hidden, weight, target, bias):
    """The plain formula, as `fastmux.reference.retrieval_loss` ends with it."""
    return F.cross_entropy(F.linear(hidden, weight, bias), target)


def elements(direction, R, V, d):
    # forward reads hidden states, weight and bias; backward reads them again and writes their gradients
    own = R * d + V * d + V
    return own if direction == "forward" else 2 * own


def flops(direction, R, V, d):
    return (2 if direction == "forward" else 4) * R * V * d


OP = Op(
    "linear_cross_entropy",
    functional.linear_cross_entropy,
    all_logits,
    shapes=on_this_machine(
        cpu=[{"R": 768, "V": 8192, "d": 192}],
        gpu=[
            {"R": 8192, "V": 30522, "d": 768},
            {"R": 8192, "V": 30522, "d": 256},
            {"R": 8192, "V": 50265, "d": 1024},
            {"R": 4096, "V": 50265, "d": 4096},
            {"R": 32, "V": 30522, "d": 768},  # for what launches cost
        ],
    ),
    inputs=inputs,
    elements=elements,
    index_bytes=lambda R, **_: 8 * R,
    flops=flops,
    peers=peers.installed(liger=peers.liger_linear_cross_entropy),
)


@OP.cases
def test_linear_cross_entropy(benchmark, case):
    case.run(benchmark)
