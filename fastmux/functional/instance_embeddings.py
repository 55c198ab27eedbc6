"""`instance_embeddings`: the terms of the sum in `embedding_mux`, for multiplexers other than products with vectors.
Kernel: kernels/embedding_mux.py."""

from __future__ import annotations

from torch import Tensor

from fastmux.functional._embedding_torch import Operands
from fastmux.functional.embedding_mux import embed


def instance_embeddings(
    input_ids: Tensor,
    word_embeddings: Tensor,
    position_embeddings: Tensor | None = None,
    position_ids: Tensor | None = None,
    token_type_embeddings: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    ln_weight: Tensor | None = None,
    ln_bias: Tensor | None = None,
    eps: float = 1e-12,
    *,
    dropout: float = 0.0,
    padding_idx: int | None = None,
    position_padding_idx: int | None = None,
    validate_ids: bool = True,
) -> Tensor:
    """``x_i = Dropout(LN(word[ids_i] + position[position_ids_i] + token_type[types_i]))``.

    It serves multiplexers that do more than scale. x has the memory layout that the matrix product of `orthogonal_mux`
    reads without a copy.

    Args:
        input_ids, word_embeddings, ..., validate_ids: As in `embedding_mux`.

    Returns:
        (G, N, L, d), a view of a contiguous (G, L, N, d).

    Raises:
        ValueError: As in `embedding_mux`.

    Example:
        >>> import torch
        >>> from fastmux.functional import instance_embeddings
        >>> x = instance_embeddings(torch.tensor([[[1, 2, 3], [3, 2, 1]]]), torch.arange(16.0).view(4, 4))
        >>> x[0, :, 0, 0], x.stride()
        (tensor([ 4., 12.]), (24, 4, 8, 1))
    """
    operands = Operands(
        input_ids, position_ids, token_type_ids, word_embeddings, position_embeddings, token_type_embeddings, ln_weight,
        ln_bias, None,
    )  # fmt: skip
    return embed("instance_embeddings", operands, eps, 1.0, dropout, padding_idx, position_padding_idx, validate_ids)
