"""The ops that are measured: the sizes at which each is timed, and formulas and inputs where `fastmux.testing` has none
that fit these sizes."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from bench import peers
from bench.harness import Op
from fastmux import functional, reference, testing

#: The shapes of ops of groups, instances and positions on a GPU, the one that matters most first. They have some 2^26
#: elements G * N * L * d, so every multiprocessor has work and no cache holds them; and there is one with one group.
GROUPED = [
    {"G": 64, "N": 10, "L": 128, "d": 768},
    {"G": 16, "N": 10, "L": 128, "d": 4096},
    {"G": 1, "N": 10, "L": 128, "d": 768},
    {"G": 256, "N": 2, "L": 128, "d": 768},
    {"G": 16, "N": 40, "L": 128, "d": 768},
    {"G": 1024, "N": 5, "L": 32, "d": 256},
    {"G": 8, "N": 20, "L": 512, "d": 1024},
]
#: Those of a demultiplexer, of a multiplexer that multiplies matrices, and of embeddings on a CPU.
DEMUX_CPU = [{"G": 2, "N": 10, "L": 64, "d": 512}, {"G": 1, "N": 2, "L": 128, "d": 768}]
SMALL_MUX = {"G": 2, "N": 4, "L": 24, "d": 192}
EMBEDDING_CPU = [{"G": 4, "N": 10, "L": 128, "d": 768, "V": 8192}, {"G": 1, "N": 10, "L": 128, "d": 768, "V": 8192}]
EMBEDDING_GPU = [sizes | {"V": 30522} for sizes in GROUPED]
POSITIONS = 512


def embedding_inputs(G, N, L, d, V):
    """The inputs of an encoder without token types. Every row has the same positions."""
    tables = {"word_embeddings": testing.normal(V, d), "position_embeddings": testing.normal(POSITIONS, d)}
    ids = {"input_ids": torch.randint(V, (G, N, L)), "position_ids": torch.arange(L).expand(G, N, L)}
    return ids | tables | testing.layer_norm(d)


def with_shared_positions(op):
    """Passes positions that all rows share as (L), as the models do."""
    return lambda position_ids, **tensors: op(position_ids=position_ids[0, 0], **tensors)


def matrices(G, N, L, d):
    """Matrices as large as orthogonal ones. To make orthogonal ones would take longest of all at d = 4096."""
    return {"x": testing.normal(G, N, L, d), "instance_matrices": testing.normal(N, d, d) * d**-0.5}


def product(x, instance_matrices):
    """The formula of `fastmux.reference.orthogonal_mux` at scale 1. The reference multiplies matrices by vectors, and
    PyTorch copies the matrix for each of the G * N * L vectors, which is too much memory at these sizes."""
    return torch.einsum("nde,gnle->gld", instance_matrices, x)


def walsh_hadamard_written_out(x, inner_signs, outer_signs):
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


def head_inputs(R, V, d):
    drawn = {"hidden": torch.randn(R, d), "weight": torch.randn(V, d) * d**-0.5}
    return drawn | {"target": torch.randint(V, (R,)), "bias": torch.randn(V)}


def all_logits(hidden, weight, target, bias):
    """The plain formula, with which `fastmux.reference.retrieval_loss` ends."""
    return F.cross_entropy(F.linear(hidden, weight, bias), target)


_LISTED = [
    Op(
        "hadamard_mux",
        cpu=[{"G": G, "N": N, "L": 128, "d": 768} for G, N in ((4, 10), (16, 2), (1, 10))],
        gpu=GROUPED,
    ),
    Op(
        "orthogonal_mux",
        cpu=[SMALL_MUX, {"G": 1, "N": 10, "L": 128, "d": 768}],
        gpu=GROUPED,
        function=functools.partial(functional.orthogonal_mux, scale=1.0),  # where a bare product gives the same numbers
        reference=product,
        inputs=matrices,
        products=lambda G, N, L, d: G * N * L * d * d,
    ),
    Op(
        "walsh_hadamard_mux",
        cpu=[SMALL_MUX, {"G": 4, "N": 10, "L": 128, "d": 768}],
        gpu=GROUPED,
        reference=walsh_hadamard_written_out,
        rereads=False,
        peers=peers.installed(fast_hadamard_transform=peers.fast_hadamard_transform),
    ),
    Op(
        "embedding_mux",
        cpu=EMBEDDING_CPU,
        gpu=EMBEDDING_GPU,
        function=with_shared_positions(functional.embedding_mux),
        inputs=lambda N, d, **sizes: embedding_inputs(N=N, d=d, **sizes) | {"instance_vectors": testing.normal(N, d)},
        gathered=lambda G, N, L, d, V: G * N * L * d + G * L * d,
        index_bytes=lambda G, N, L, **_: 8 * G * N * L,
        peers=peers.installed(liger=peers.liger_embedding_mux),
    ),
    Op(
        "instance_embeddings",
        cpu=EMBEDDING_CPU,
        gpu=EMBEDDING_GPU,
        function=with_shared_positions(functional.instance_embeddings),
        inputs=embedding_inputs,
        gathered=lambda G, N, L, d, V: 2 * G * N * L * d,
        index_bytes=lambda G, N, L, **_: 8 * G * N * L,
    ),
    Op("pair_norm", cpu=DEMUX_CPU, gpu=GROUPED),
    Op(
        "index_demux",
        cpu=DEMUX_CPU,
        gpu=GROUPED,
        products=lambda G, N, L, d: G * (N + L) * d * d,
        peers=peers.installed(liger=peers.liger_index_demux),
    ),
    Op("mlp_demux", cpu=DEMUX_CPU, gpu=GROUPED, products=lambda G, N, L, d: G * N * L * d * d),
    Op("unbind_demux", cpu=DEMUX_CPU, gpu=GROUPED, products=lambda G, N, L, d: G * N * L * d * d),
    Op(
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
        inputs=head_inputs,
        products=lambda R, V, d: R * V * d,
        peers=peers.installed(liger=peers.liger_linear_cross_entropy),
    ),
]
OPS = {op.name: op for op in _LISTED}
