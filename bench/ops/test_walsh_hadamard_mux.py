from __future__ import annotations

import functools

import torch

from bench import peers
from bench.harness import GROUPED, Op
from bench.ops.test_orthogonal_mux import product
from fastmux import reference


def written_out(x, inner_signs, outer_signs):
    """`fastmux.reference.walsh_hadamard_mux`, with matrix products as in the benchmark of `orthogonal_mux`."""
    h = _matrix(x.shape[-1], x.dtype, x.device)
    inner, outer = inner_signs.to(x), outer_signs.to(x)
    return product(x, h @ (outer[:, :, None] * h * inner[:, None, :])) * x.shape[1] ** -0.5


@torch.compiler.assume_constant_result
def _matrix(order, dtype, device):
    """The orthonormal Hadamard matrix, built once, so that no loops in Python and no copy to the device are timed."""
    return _built(order, dtype, device)


@functools.cache
def _built(order, dtype, device):
    with torch.device("cpu"):
        return (reference.hadamard_matrix(order) * order**-0.5).to(device, dtype)


OP = Op(
    "walsh_hadamard_mux",
    cpu=[{"G": 2, "N": 4, "L": 24, "d": 192}, {"G": 4, "N": 10, "L": 128, "d": 768}],
    gpu=GROUPED,
    reference=written_out,
    rereads=False,
    peers=peers.installed(fast_hadamard_transform=peers.fast_hadamard_transform),
)

test_walsh_hadamard_mux = OP.test()
