"""The embeddings of instances, their multiplexed sum, and the index prefix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.reference.mux import hadamard_mux


def instance_embeddings(
    input_ids: Tensor,
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    position_ids: Tensor,
    token_type_embeddings: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    ln_weight: Tensor | None = None,
    ln_bias: Tensor | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """Embed every instance as BERT does.

    input_ids, position_ids, token_type_ids (G, N, L); tables (V, d), (P, d), (T, d) -> (G, N, L, d).
    """
    x = word_embeddings[input_ids] + position_embeddings[position_ids]
    if token_type_embeddings is not None:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = x + token_type_embeddings[token_type_ids]
    return F.layer_norm(x, x.shape[-1:], ln_weight, ln_bias, eps)


def embedding_mux(input_ids: Tensor, instance_vectors: Tensor, *tables, scale: float | None = None, **named) -> Tensor:
    """`instance_embeddings`, then `hadamard_mux`.

    input_ids (G, N, L), instance_vectors (N, d), then what `instance_embeddings` takes -> (G, L, d).
    """
    return hadamard_mux(instance_embeddings(input_ids, *tables, **named), instance_vectors, scale)


def index_prefix(embed, index_tokens: Tensor, pad_token: Tensor, cls_token: Tensor) -> Tensor:
    """The N prefixes, embedded one by one (DataMUX 3.2). Instance i has its own token at position i, pads at the
    others.

    embed maps word embeddings (N, N + 1, d) to the encoder's embeddings; index_tokens (N, d), pad_token (d),
    cls_token (d) are word embeddings -> (N, N + 1, d).
    """
    num_instances = index_tokens.shape[0]
    rows = []
    for i in range(num_instances):
        row = [index_tokens[i] if k == i else pad_token for k in range(num_instances)]
        rows.append(torch.stack([*row, cls_token]))
    return embed(torch.stack(rows))
