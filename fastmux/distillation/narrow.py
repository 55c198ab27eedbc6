"""Narrow an original's layers for rows of text, before a student is made of it."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import BATCH_TOKENS, padded
from fastmux.embedding.model import EmbeddingModel
from fastmux.models.narrowing import narrowed
from fastmux.passes.plan import plan_passes

#: The rows on which neurons and heads are chosen.
_SAMPLE_ROWS = 512


def narrowed_for(
    original: PreTrainedModel | EmbeddingModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    ffn_width: float = 1.0,
    attention_width: float = 1.0,
) -> PreTrainedModel | EmbeddingModel:
    """The original with the neurons and the attention heads that matter most for rows of text.

    Args:
        original: An encoder, with or without a head, or a model that embeds. It is not changed.
        rows: The model's inputs and a column ``length``. The first 512 choose what is kept.
        tokenizer: Pads the rows.
        ffn_width, attention_width: The share of the neurons and of the heads that each layer keeps, above 0, up to 1.
            With 1 and 1 the original is returned.
    """
    if ffn_width == attention_width == 1:
        return original
    if isinstance(original, EmbeddingModel):
        widths = {"ffn_width": ffn_width, "attention_width": attention_width}
        return original.with_encoder(narrowed_for(original.encoder, rows, tokenizer, **widths))
    some = rows.select(range(min(_SAMPLE_ROWS, len(rows))))
    batches = (padded(some, batch, tokenizer) for batch in plan_passes(np.asarray(some["length"]), BATCH_TOKENS))
    config = original.config
    neurons, heads = (
        max(1, round(share * all_of_them))
        for share, all_of_them in (
            (ffn_width, config.intermediate_size),
            (attention_width, config.num_attention_heads),
        )
    )
    return narrowed(original, neurons, batches, attention_heads=heads)
