from __future__ import annotations

import torch

from bench import peers
from bench.harness import GROUPED, Op, on_this_machine
from fastmux import functional, reference

POSITIONS = 512


def inputs(G, N, L, d, V):
    return {
        "input_ids": torch.randint(V, (G, N, L)),
        "instance_vectors": torch.randn(N, d),
        "word_embeddings": torch.randn(V, d),
        "position_embeddings": torch.randn(POSITIONS, d),
        "position_ids": torch.arange(L).expand(G, N, L),
        "ln_weight": torch.randn(d) + 1,
        "ln_bias": torch.randn(d),
    }


def with_shared_positions(op):
    """An op takes positions that all rows share as (L), as the models give them."""
    return lambda position_ids, **tensors: op(position_ids=position_ids[0, 0], **tensors)


def elements(direction, G, N, L, d, V):
    # forward gathers rows, writes y; backward reads dy, gathers the rows again and writes the gradients of both tables
    forward = G * N * L * d + G * L * d
    return forward if direction == "forward" else forward + (V + POSITIONS) * d


OP = Op(
    "embedding_mux",
    with_shared_positions(functional.embedding_mux),
    reference.embedding_mux,
    shapes=on_this_machine(
        cpu=[{"G": 4, "N": 10, "L": 128, "d": 768, "V": 8192}],
        gpu=[sizes | {"V": 30522} for sizes in GROUPED],
    ),
    inputs=inputs,
    elements=elements,
    index_bytes=lambda G, N, L, **_: 8 * G * N * L,
    peers=peers.installed(liger=peers.liger_embedding_mux),
)


@OP.cases
def test_embedding_mux(benchmark, case):
    case.run(benchmark)
