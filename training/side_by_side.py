"""Rows a second of several models on the same text, side by side: real lengths, each at its best batch size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import padded
from fastmux.passes.plan import Layout, plan_passes

#: Padded tokens of a batch, of which each model has the best.
BATCH_TOKENS = (512, 2048, 8192)


@torch.inference_mode()
def rows_per_second(
    passes: Mapping[str, Sequence[tuple[PreTrainedModel, Dataset]]],
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    *,
    repeats: int = 5,
    multiple: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median rate of each name over ``repeats`` turns, in which all take part.

    Args:
        passes: what a turn of each name runs, one after the other: models in eval mode on rows (a column ``length`` and
            what the models take), of which those of like length share a batch. A cascade has two. Labels, loss and
            tokenising are not part of what is timed.
        rows: how many rows a turn serves.
        multiple: batches have a multiple of so many rows, so that no group is filled up.

        clock: `time.process_time` on a CPU that has other work to do.

    Returns:
        Rows a second by name.
    """
    plans: dict[tuple[int, int], list] = {}

    def batches(part: Dataset, size: int) -> list:
        key = (id(part), size)  # models share the batches of the same rows
        if key not in plans:
            lengths = np.asarray(part["length"])
            plans[key] = [
                padded(part, rows, tokenizer) for rows in plan_passes(lengths, size, Layout(multiple, multiple))
            ]
        return plans[key]

    def seconds(name: str, size: int, at_most: int | None = None) -> float:
        total = 0.0
        for model, part in passes[name]:
            device, todo = model.device, batches(part, size)[:at_most]
            start = clock()
            for batch in todo:
                model(**batch.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            total += clock() - start
        return total

    best = {}
    for name in passes:
        seconds(name, BATCH_TOKENS[0], at_most=1)  # warm-up, apart from what is timed
        best[name] = min(BATCH_TOKENS, key=lambda size: seconds(name, size))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, values in times.items():
            values.append(seconds(name, best[name]))
    return {name: rows / statistics.median(values) for name, values in times.items()}
