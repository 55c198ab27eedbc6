from __future__ import annotations

import torch

from bench import peers
from bench.harness import GROUPED, Op
from fastmux import functional, reference, testing

POSITIONS = 512
CPU = [{"G": 4, "N": 10, "L": 128, "d": 768, "V": 8192}, {"G": 1, "N": 10, "L": 128, "d": 768, "V": 8192}]
GPU = [sizes | {"V": 30522} for sizes in GROUPED]


def inputs(G, N, L, d, V):
    """The inputs of an encoder without token types. Every row has the same positions."""
    tables = {"word_embeddings": testing.normal(V, d), "position_embeddings": testing.normal(POSITIONS, d)}
    ids = {"input_ids": torch.randint(V, (G, N, L)), "position_ids": torch.arange(L).expand(G, N, L)}
    return ids | tables | {"instance_vectors": testing.normal(N, d), **testing.layer_norm(d)}


def with_shared_positions(op):
    """Passes positions that all rows share as (L), as the models do."""
    return lambda position_ids, **tensors: op(position_ids=position_ids[0, 0], **tensors)


OP = Op(
    "embedding_mux",
    cpu=CPU,
    gpu=GPU,
    function=with_shared_positions(functional.embedding_mux),
    reference=reference.embedding_mux,
    inputs=inputs,
    gathered=lambda G, N, L, d, V: G * N * L * d + G * L * d,
    index_bytes=lambda G, N, L, **_: 8 * G * N * L,
    peers=peers.installed(liger=peers.liger_embedding_mux),
)

test_embedding_mux = OP.test()
