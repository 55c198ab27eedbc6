"""BERT-like models on packed rows: their embeddings, layers and heads, where these may be run one by one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from fastmux.modules.embeddings import EmbeddingAdapter
from fastmux.modules.is_plain import is_plain
from fastmux.passes.packing import PackedRows, ends
from fastmux.passes.sequences import Asked, Sequences, can_pack_layers, run_at, run_layers

_HEADS = ("ForSequenceClassification", "ForTokenClassification")


class PackedForm(Protocol):
    """How a model runs packed rows, in eval mode. Nothing of it waits for a GPU: what the host knows is copied before.

    Attributes:
        head_width: d / H, of the attention's heads.
    """

    head_width: int

    def arrays(self, rows: PackedRows) -> dict[str, np.ndarray]:
        """The integers that a pass takes."""

    def answers(self, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        """The logits, or of a model without a head the states, of rows of which ``given`` has the arrays on the device:
        (G * N, C), slot after slot of each group, or (N, T, C) of tokens."""


def packed_form(model: nn.Module) -> PackedForm | None:
    """How a model runs packed rows; None if it only runs padded ones."""
    if getattr(model, "_compiled_call_impl", None) is not None:
        return None
    own = getattr(model, "packed_form", None)
    if own is not None:
        return own()
    return PackedModel(model) if PackedModel.can_pack(model) else None


class PackedModel:
    """A BERT-like model of transformers; see `PackedForm`.

    Args:
        model: One of which `can_pack` is true.
    """

    def __init__(self, model: Any):
        self.model, self.base = model, model.base_model
        kind = type(model).__name__
        self.of_tokens = not kind.endswith(_HEADS[0])
        self.has_head = kind.endswith(_HEADS)
        self.head_width: int = self.base.encoder.layer[0].attention.self.attention_head_size

    @classmethod
    def can_pack(cls, model: Any) -> bool:
        """Whether a model's parts compute, one by one, what the model does."""
        if not type(model).__module__.startswith("transformers.models."):
            return False
        if not (type(model).__name__.endswith(_HEADS) or model is model.base_model):
            return False
        return is_plain(model, type(model)) and can_pack_encoder(model.base_model) and cls._runs(model.base_model)

    @classmethod
    def _runs(cls, base: Any) -> bool:
        """Whether the encoder in a model is one of those that `encode` runs."""
        return type(base.encoder).__module__.startswith("transformers.models.")

    def arrays(self, rows: PackedRows) -> dict[str, np.ndarray]:
        """See `PackedForm`."""
        adapter = EmbeddingAdapter(self.base.embeddings)
        found = {
            "input_ids": rows.ids,
            "position_ids": rows.positions(adapter.first_position, adapter.end_position - 1, adapter.pad_id),
            "ends": ends(rows.sizes),
            "starts": rows.starts,
            "each": np.arange(len(rows.sizes) + 1),
        }
        return found if rows.types is None else found | {"token_type_ids": rows.types}

    def answers(self, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        """See `PackedForm`."""
        ids = given["input_ids"]
        positions, types = given["position_ids"].view_as(ids), given.get("token_type_ids")
        states = self.encode(run_embeddings(self.base, positions, types, input_ids=ids), given, rows)
        if not self.has_head:
            return states[None]
        if self.of_tokens:
            return self.model.classifier(self.model.dropout(states))[None]
        first = states[:, None]
        pooler = getattr(self.base, "pooler", None)
        return self.model.classifier(first if pooler is None else self.model.dropout(pooler(first)))

    def encode(self, x: Tensor, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        """The last hidden states of embeddings (T, d): (T, d), or (G, d) at the first positions if the head reads no
        others."""
        layers, (sequences, first) = self.base.encoder.layer, laid_out(given, rows)
        if self.of_tokens:
            return run_layers(layers, x, sequences)
        return run_at(layers[-1], run_layers(layers[:-1], x, sequences), sequences, first)


def can_pack_encoder(base: Any) -> bool:
    """Whether an encoder without a head is BERT-like, with layers that may be run one by one."""
    encoder = getattr(base, "encoder", None)
    layers = getattr(encoder, "layer", None)
    if encoder is None or not layers or not hasattr(base, "embeddings"):
        return False
    plain = all(is_plain(module, type(module)) for module in (base, encoder))
    return plain and can_pack_layers(base.config, layers)


def laid_out(given: dict[str, Tensor], rows: PackedRows) -> tuple[Sequences, Asked]:
    """The groups end to end, and the first position of each."""
    return Sequences(given["ends"], int(rows.sizes.max())), Asked(given["starts"], Sequences(given["each"], 1))


def run_embeddings(base: Any, positions: Tensor, types: Tensor | None = None, **words: Tensor) -> Tensor:
    """The embeddings (T, d) of an encoder, for positions (1, T), types (1, T) and either ``input_ids`` (1, T) or
    ``inputs_embeds`` (1, T, d)."""
    types = positions.new_zeros(1, 1) if types is None else types
    states = base.embeddings(position_ids=positions, token_type_ids=types, **words)
    return (base.embeddings_project(states) if hasattr(base, "embeddings_project") else states)[0]  # ELECTRA has one
