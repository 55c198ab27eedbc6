"""`EmbeddingAdapter`: the parts of an encoder's embedding module, and its rules for positions."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from fastmux.backends import choose_backend
from fastmux.functional.derived import derived
from fastmux.modules.is_plain import is_plain


class EmbeddingAdapter:
    """What multiplexing needs of an encoder's embedding module: its tables, its position ids, its longest row.

    It is made anew for every pass, since tables may be resized and modules wrapped at any time.

    Args:
        module: The embedding module of a Hugging Face encoder: a word table, LayerNorm and dropout, and in some
            encoders tables of positions and of token types.
        max_positions: The longest row according to the encoder's config. It counts where there is no table of
            positions. None for no limit.
    """

    def __init__(self, module: nn.Module, max_positions: int | None = None):
        def part(*names: str):
            for name in names:
                if (found := getattr(module, name, None)) is not None:
                    return found
            return None

        self.word: nn.Module = part("word_embeddings", "tok_embeddings")
        self.position: nn.Module | None = part("position_embeddings")
        self.token_type: nn.Module | None = part("token_type_embeddings")
        self.layer_norm: nn.Module | None = part("LayerNorm", "norm")
        self.dropout: nn.Module | None = part("dropout", "drop")
        # RoBERTa and its kin count positions from pad_token_id + 1 and leave pads at pad_token_id.
        self.pad_id: int | None = None if self.position is None else getattr(module, "padding_idx", None)
        self.first_position = 0 if self.pad_id is None else self.pad_id + 1
        self.max_positions = max_positions or sys.maxsize

    @property
    def max_length(self) -> int:
        """The number of positions that a row may have."""
        if self.position is None:
            return self.max_positions
        return rows_of(self.position, self.max_positions) - self.first_position

    @property
    def end_position(self) -> int:
        """The first position id that is out of range."""
        return self.first_position + self.max_length

    @property
    def device(self) -> torch.device | None:
        """The device that ids must be on. None where that is known only when the embeddings run: for an offloaded
        table."""
        weight = getattr(self.word, "weight", None)
        if not isinstance(weight, Tensor):
            weight = next(self.word.parameters(), None)
        return None if weight is None or weight.device.type == "meta" else weight.device

    def content_positions(
        self, input_ids: Tensor | None, length: int, offset: int, device: torch.device
    ) -> Tensor | None:
        """The position ids, (L) or (B, L), of tokens after a prefix of ``offset`` positions. None without a position
        table.

        Tokens beyond the last position share it.
        """
        if self.position is None:
            return None
        start, last = self.first_position + offset, self.end_position - 1
        real = None if self.pad_id is None or input_ids is None else input_ids != self.pad_id
        if real is None or (not torch.compiler.is_compiling() and real.device.type == "cpu" and bool(real.all())):

            def counted() -> Tensor:
                positions = torch.arange(start, start + length, device=device)
                return positions if start + length <= self.end_position else positions.clamp_(max=last)

            return derived(("positions", start, length, last, device), self.position, (), counted)
        return torch.where(real, (real.cumsum(1) + (start - 1)).clamp_(max=last), self.pad_id)

    def embed(self, words: Tensor, position_ids: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """Applies the embedding module to word embeddings: words (..., L, d), ids (L) or (..., L) -> (..., L, d)."""
        x = words
        if self.position is not None:
            x = x + self.position(position_ids)
        if self.token_type is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros(1, dtype=torch.long, device=words.device)
            x = x + self.token_type(token_type_ids)
        for module in (self.layer_norm, self.dropout):
            x = x if module is None else module(x)
        return x

    def tables(self, position_ids: Tensor | None, token_type_ids: Tensor | None) -> dict | None:
        """The arguments, besides the ids, with which `F.instance_embeddings` computes the same as `embed`. The ids must
        be known to be in range. None where no op computes the same, because a user added modules or hooks."""
        for module, kind in (
            (self.word, nn.Embedding),
            (self.position, nn.Embedding),
            (self.token_type, nn.Embedding),
            (self.layer_norm, nn.LayerNorm),
            (self.dropout, nn.Dropout),
        ):
            if not is_plain(module, kind):
                return None
        dropout = self.dropout.p if self.dropout is not None and self.dropout.training else 0.0
        if dropout and torch.compiler.is_compiling() and choose_backend(self.word.weight) == "torch":
            return None  # a traced graph has no seeded generator, from which that backend draws
        tables = {
            "word_embeddings": self.word.weight,
            "position_embeddings": None if self.position is None else self.position.weight,
            "position_ids": position_ids,
            "token_type_embeddings": None if self.token_type is None else self.token_type.weight,
            "token_type_ids": token_type_ids if self.token_type is not None else None,
            "dropout": dropout,
            "padding_idx": self.word.padding_idx,
            "position_padding_idx": None if self.position is None else self.position.padding_idx,
            "validate_ids": False,
        }
        if self.layer_norm is not None:
            weight, bias = self.layer_norm.weight, self.layer_norm.bias
            tables |= {"ln_weight": weight, "ln_bias": torch.zeros_like(weight) if bias is None else bias}
            tables["eps"] = self.layer_norm.eps
        return tables


def rows_of(table: nn.Module, unknown: int = sys.maxsize) -> int:
    """The number of rows of an embedding module; ``unknown`` for a wrapper that does not tell."""
    rows = getattr(table, "num_embeddings", None)
    if rows is None and isinstance(getattr(table, "weight", None), Tensor):
        rows = len(table.weight)
    return unknown if rows is None else rows
