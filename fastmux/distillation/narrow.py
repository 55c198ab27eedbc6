"""Narrow an original's feed-forward layers for rows of text, before a student is made of it."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import BATCH_TOKENS, padded
from fastmux.models.narrowing import narrowed
from fastmux.passes.plan import plan_passes

#: The rows on which neurons are chosen.
_SAMPLE_ROWS = 512


def narrowed_for(
    original: PreTrainedModel, ffn_width: float, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The original with the neurons of its feed-forward layers that matter most for rows of text.

    Args:
        original: An encoder, with or without a head. It is not changed.
        ffn_width: The share of the neurons that each layer keeps, above 0, up to 1. With 1 the original is returned.
        rows: The model's inputs and a column ``length``. The first 512 choose the neurons.
        tokenizer: Pads the rows.
    """
    if ffn_width == 1:
        return original
    some = rows.select(range(min(_SAMPLE_ROWS, len(rows))))
    batches = (padded(some, batch, tokenizer) for batch in plan_passes(np.asarray(some["length"]), BATCH_TOKENS))
    return narrowed(original, max(1, round(ffn_width * original.config.intermediate_size)), batches)
