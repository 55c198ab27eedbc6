from __future__ import annotations

import functools

import torch

from bench import peers
from bench.harness import GROUPED, Op, on_this_machine
from bench.test_orthogonal_mux import product
from fastmux import functional, reference


def inputs(G, N, L, d):
    def signs():
        return torch.randint(0, 2, (N, d), dtype=torch.int8) * 2 - 1

    return {"x": torch.randn(G, N, L, d), "inner_signs": signs(), "outer_signs": signs()}


def written_out(x, inner_signs, outer_signs):
    """`fastmux.reference.walsh_hadamard_mux`, its matrices multiplied as those of `orthogonal_mux`."""
    d = x.shape[-1]
    h = (_matrix(d) * d**-0.5).to(x)
    inner, outer = inner_signs.to(x), outer_signs.to(x)
    return product(x, h @ (outer[:, :, None] * h * inner[:, None, :])) * x.shape[1] ** -0.5


# Built by loops in Python: once for each order is enough.
_matrix = functools.cache(reference.hadamard_matrix)


def elements(direction, G, N, L, d):
    # forward reads x, writes y; backward reads dy, writes dx; signs are small beside them
    return G * N * L * d + G * L * d


OP = Op(
    "walsh_hadamard_mux",
    functional.walsh_hadamard_mux,
    written_out,
    shapes=on_this_machine(
        cpu=[{"G": 2, "N": 4, "L": 24, "d": 192}],
        gpu=GROUPED,
    ),
    inputs=inputs,
    elements=elements,
    index_bytes=lambda N, d, **_: 2 * N * d,
    peers=peers.installed(fast_hadamard_transform=peers.fast_hadamard_transform),
)


@OP.cases
def test_walsh_hadamard(benchmark, case):
    case.run(benchmark)
