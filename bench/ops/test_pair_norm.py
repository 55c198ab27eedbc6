from __future__ import annotations

from bench.harness import GROUPED, Op

OP = Op(
    "pair_norm",
    cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}, {"G": 1, "N": 2, "L": 128, "d": 768}],
    gpu=GROUPED,
)

test_pair_norm = OP.test()
