"""Instances per second of several models, measured side by side."""

from __future__ import annotations

import contextlib
import statistics
import time

import torch
from torch import nn

from training.results import Throughput


def arithmetic_limit(num_instances: int, length: int, prefix_length: int) -> float:
    """N * L / (L + prefix): how many times faster N rows in one pass are if nothing but the encoder costs."""
    return num_instances * length / (length + prefix_length)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def instances_per_second(
    models: dict[str, nn.Module],
    input_ids: torch.Tensor,
    batch_rows: dict[str, list[int]],
    *,
    seconds: float,
    repeats: int = 7,
    autocast: torch.dtype | None = None,
) -> dict[str, Throughput]:
    """Times forward passes in eval mode, all models and batch sizes in turn in every repeat.

    Every model runs on the same full-length rows at each of its batch sizes; its figure is the median over
    the repeats at its best batch size, so that no model is held back by a batch that suits another.

    Args:
        models: by name; each takes ``input_ids`` and ``attention_mask``.
        input_ids: (rows, L), without padding; repeated where a batch takes more rows.
        batch_rows: batch sizes to try for each model.
        seconds: to spend on all measurements together; every one takes at least one pass.
        repeats: measurements of each model at each batch size.
        autocast: precision of the passes; None for the models' own.

    """

    def forward(model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        device_type = inputs["input_ids"].device.type
        with torch.autocast(device_type, autocast) if autocast else contextlib.nullcontext():
            model(**inputs)

    share = seconds / (repeats * sum(map(len, batch_rows.values())))
    runs = {}
    for name, model in models.items():
        model.eval()
        device = next(model.parameters()).device
        for rows in batch_rows[name]:
            ids = input_ids.repeat(-(-rows // len(input_ids)), 1)[:rows].to(device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            start = time.perf_counter()
            for _ in range(2):
                _synchronize(device)
                start = time.perf_counter()
                forward(model, inputs)
                _synchronize(device)
            once = time.perf_counter() - start
            runs[name, rows] = (model, inputs, max(1, round(share / max(once, 1e-6))), device)
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, (model, inputs, passes, device) in runs.items():
            _synchronize(device)
            start = time.perf_counter()
            for _ in range(passes):
                forward(model, inputs)
            _synchronize(device)
            rates[key].append(passes * key[1] / (time.perf_counter() - start))
    results = {}
    for name in models:
        best = max(batch_rows[name], key=lambda rows: statistics.median(rates[name, rows]))
        measured = sorted(rates[name, best])
        median = statistics.median(measured)
        quarter = len(measured) // 4
        results[name] = Throughput(median, best, (measured[-1 - quarter] - measured[quarter]) / median)
    return results
