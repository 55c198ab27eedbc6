"""How much a converted model says what its original says."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import captured_states, padded

#: Random groupings over which figures are averaged: a row's result can depend on the rows of its group.
GROUPINGS = 3
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Agreement:
    """Means over random groupings of the rows.

    Attributes:
        labels: share of the rows (of the tokens, where those are labelled) with the original's label; None without a
            head, or for a regression.
        labels_std: its standard deviation over the groupings.
        kl: mean Kullback-Leibler divergence of the original's labels from the converted model's, in nats.
        cosine: mean cosine of the hidden states with the original's, where the head reads them.
        rows: how many there were.
    """

    labels: float | None
    labels_std: float | None
    kl: float | None
    cosine: float
    rows: int


@torch.inference_mode()
def measure_agreement(
    student: PreTrainedModel,
    original: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    num_instances: int,
    seed: int,
) -> Agreement:
    """Compare two models in eval mode on ``rows``, in several random orders."""
    figures: dict[str, list[float]] = {"labels": [], "kl": [], "cosine": []}
    for grouping in range(GROUPINGS if num_instances > 1 else 1):
        order = np.random.default_rng([seed, grouping]).permutation(len(rows))
        size = max(1, _BATCH_ROWS // num_instances) * num_instances
        sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in figures}
        for begin in range(0, len(order), size):
            batch = padded(rows, order[begin : begin + size], tokenizer).to(original.device)
            ours, theirs = (_answers(model, batch) for model in (student, original))
            for name, (total, count) in _compare(*ours, *theirs, batch.get("attention_mask")).items():
                sums[name][0] += total
                sums[name][1] += count
        for name, (total, counted) in sums.items():
            if counted:
                figures[name].append(total / counted)
    means = {name: statistics.fmean(values) if values else None for name, values in figures.items()}
    labels = figures["labels"]
    spread = (statistics.stdev(labels) if len(labels) > 1 else 0.0) if labels else None
    return Agreement(**means, labels_std=spread, rows=len(rows))


def _answers(model: PreTrainedModel, batch) -> tuple[Tensor, Tensor | None]:
    with captured_states(model) as states:
        logits = getattr(model(**batch), "logits", None)
    return states[-1], logits


def _compare(
    states: Tensor, logits: Tensor | None, teacher_states: Tensor, teacher_logits: Tensor | None, mask: Tensor | None
) -> dict[str, tuple[float, int]]:
    """(sum, count) of each figure over one batch."""
    teacher_states = teacher_states[:, : states.shape[1]]
    kept = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    if mask is not None and states.shape[1] > 1:
        kept = mask != 0
    cosine = F.cosine_similarity(states[kept].float(), teacher_states[kept].float(), dim=-1)
    out = {"cosine": (cosine.sum().item(), cosine.numel())}
    if logits is None or logits.shape[-1] < 2:
        return out
    if logits.dim() == 3:
        logits, teacher_logits = logits[kept], teacher_logits[kept]
    same = logits.argmax(-1) == teacher_logits.argmax(-1)
    ours, theirs = (F.log_softmax(t.float(), -1) for t in (logits, teacher_logits))
    kl = F.kl_div(ours, theirs, reduction="sum", log_target=True).item()
    return out | {"labels": (same.sum().item(), same.numel()), "kl": (kl, same.numel())}
