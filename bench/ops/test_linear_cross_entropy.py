from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import peers
from bench.harness import Op
from fastmux import functional


def inputs(R, V, d):
    return {
        "hidden": torch.randn(R, d),
        "weight": torch.randn(V, d) * d**-0.5,
        "target": torch.randint(V, (R,)),
        "bias": torch.randn(V),
    }


def all_logits(hidden, weight, target, bias):
    """The plain formula, with which `fastmux.reference.retrieval_loss` ends."""
    return F.cross_entropy(F.linear(hidden, weight, bias), target)


OP = Op(
    "linear_cross_entropy",
    cpu=[{"R": 768, "V": 8192, "d": 192}, {"R": 32, "V": 8192, "d": 768}],
    gpu=[
        {"R": 8192, "V": 30522, "d": 768},
        {"R": 4096, "V": 50265, "d": 4096},
        {"R": 32, "V": 30522, "d": 768},  # shows what launches cost
        {"R": 8192, "V": 30522, "d": 256},
        {"R": 8192, "V": 50265, "d": 1024},
    ],
    function=functional.linear_cross_entropy,
    reference=all_logits,
    inputs=inputs,
    products=lambda R, V, d: R * V * d,
    peers=peers.installed(liger=peers.liger_linear_cross_entropy),
)

test_linear_cross_entropy = OP.test()
