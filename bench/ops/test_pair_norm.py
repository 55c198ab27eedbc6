from __future__ import annotations

from bench.harness import GROUPED, Op
from fastmux import functional, reference, testing


def inputs(G, N, L, d):
    return {"a": testing.normal(G, L, d), "b": testing.normal(G, N, d), **testing.layer_norm(d)}


OP = Op(
    "pair_norm",
    cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}, {"G": 1, "N": 2, "L": 128, "d": 768}],
    gpu=GROUPED,
    function=functional.pair_norm,
    reference=reference.pair_norm,
    inputs=inputs,
)


@OP.cases
def test_pair_norm(measure, case):
    measure(case)
