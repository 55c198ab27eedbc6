"""Rows a second of several models on the same text, side by side: real lengths, each at its best batch size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import length_batches, padded

#: Padded tokens of a batch, of which each model has the best.
BATCH_TOKENS = (512, 2048, 8192)


@torch.inference_mode()
def rows_per_second(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    *,
    repeats: int = 5,
    multiple: int = 1,
) -> dict[str, float]:
    """The median rate of each model over ``repeats`` passes, in which the models take turns.

    Args:
        models: by name, in eval mode; labels, loss and tokenising are not part of what is timed.
        rows: column ``length`` and what the models take. Rows of like length share a batch.
        multiple: batches have a multiple of so many rows, so that no group is filled up.

    Returns:
        Rows a second by name.
    """
    lengths = np.asarray(rows["length"])
    plans = {
        size: [padded(rows, b, tokenizer) for b in length_batches(lengths, size, multiple)] for size in BATCH_TOKENS
    }

    def seconds(model: PreTrainedModel, size: int) -> float:
        device = model.device
        start = time.perf_counter()
        for batch in plans[size]:
            model(**batch.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    best = {}
    for name, model in models.items():
        seconds(model, BATCH_TOKENS[0])  # warm-up, apart from what is timed
        best[name] = min(BATCH_TOKENS, key=lambda size: seconds(model, size))
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            times[name].append(seconds(model, best[name]))
    return {name: len(rows) / statistics.median(values) for name, values in times.items()}
