from __future__ import annotations

import functools

import torch

from bench import peers
from bench.harness import GROUPED, Op, on_this_machine
from bench.ops.test_orthogonal_mux import product
from fastmux import functional, reference


def inputs(G, N, L, d):
    def signs():
        return torch.randint(0, 2, (N, d), dtype=torch.int8) * 2 - 1

    return {"x": torch.randn(G, N, L, d), "inner_signs": signs(), "outer_signs": signs()}


def written_out(x, inner_signs, outer_signs):
    """`fastmux.reference.walsh_hadamard_mux`, its matrices multiplied as those of `orthogonal_mux`."""
    h = _matrix(x.shape[-1], x.dtype, x.device)
    inner, outer = inner_signs.to(x), outer_signs.to(x)
    return product(x, h @ (outer[:, :, None] * h * inner[:, None, :])) * x.shape[1] ** -0.5


@torch.compiler.assume_constant_result
def _matrix(order, dtype, device):
    """The orthonormal Hadamard matrix, built once: loops in Python and a copy to the device are not what is timed."""
    return _built(order, dtype, device)


@functools.cache
def _built(order, dtype, device):
    return (reference.hadamard_matrix(order) * order**-0.5).to(device, dtype)


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
def test_walsh_hadamard_mux(benchmark, case):
    case.run(benchmark)
