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
from fastmux.models.problems import PROBLEMS, Regression, SingleLabel, TokenLabels, problem_of
from fastmux.passes.cascade import agrees

#: Random groupings over which figures are averaged: a row's result can depend on the rows of its group.
GROUPINGS = 3
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Agreement:
    """Means over random groupings of the rows. Which figures there are depends on the kind of labels.

    Attributes:
        problem: the kind of labels, as of `fastmux.models.problems.problem_of`; None without a head.
        labels: share of the rows (of the tokens, where those are labelled) with the original's label, or with all of
            its labels and no other where there may be several; None without labels.
        labels_std: its standard deviation over the groupings; None of one grouping.
        kl: mean Kullback-Leibler divergence of the original's labels from the converted model's, in nats; of sigmoids
            the sum over the labels of a row. None without labels.
        r2: of a regression, the share of the variance of the original's outputs that the converted model's explain.
        r2_std: its standard deviation over the groupings; None of one grouping.
        cosine: mean cosine of the hidden states with the original's, where the head reads them.
        groupings: how many there were.
        rows: how many there were.
    """

    problem: str | None
    labels: float | None
    labels_std: float | None
    kl: float | None
    r2: float | None
    r2_std: float | None
    cosine: float
    groupings: int
    rows: int

    def figures(self) -> dict[str, str]:
        """What there is, in words: a name and a value each."""
        found = {}
        if self.problem is not None:
            kind = PROBLEMS[self.problem]
            if self.labels is not None:
                found[kind.same] = _measured(self.labels, self.labels_std)
            if self.kl is not None:
                found[kind.divergence_name] = f"{self.kl:.4f}"
            if self.r2 is not None:
                found["R\u00b2 of the outputs"] = _measured(self.r2, self.r2_std)
        return found | {"cosine of states": f"{self.cosine:.4f}"}


def _measured(mean: float, std: float | None) -> str:
    return f"{mean:.4f}" + ("" if std is None else f" \u00b1 {std:.4f}")


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
    figures: dict[str, list[float]] = {"labels": [], "kl": [], "r2": [], "cosine": []}
    name = None
    groupings = GROUPINGS if num_instances > 1 else 1
    for grouping in range(groupings):
        order = np.random.default_rng([seed, grouping]).permutation(len(rows))
        size = max(1, _BATCH_ROWS // num_instances) * num_instances
        cosines, said, wanted = [], [], []
        for begin in range(0, len(order), size):
            batch = padded(rows, order[begin : begin + size], tokenizer).to(original.device)
            (states, logits), (their_states, their_logits) = (_answers(model, batch) for model in (student, original))
            real = batch["attention_mask"] != 0
            kept = real[:, : states.shape[1]]  # the first position alone, where that is all there is
            their_states = their_states[:, : states.shape[1]]
            cosines.append(F.cosine_similarity(states[kept].float(), their_states[kept].float(), dim=-1))
            if logits is not None:
                said.append(logits if logits.dim() == 2 else logits[real])
                wanted.append(their_logits if their_logits.dim() == 2 else their_logits[real])
        figures["cosine"].append(torch.cat(cosines).mean().item())
        if said:
            name = problem_of(original)
            for figure, value in _compare(name, torch.cat(said), torch.cat(wanted)).items():
                figures[figure].append(value)
    mean = {figure: statistics.fmean(values) if values else None for figure, values in figures.items()}
    std = {figure: statistics.stdev(v) if len(v) > 1 else None for figure, v in figures.items()}
    return Agreement(
        problem=name,
        labels=mean["labels"],
        labels_std=std["labels"],
        kl=mean["kl"],
        r2=mean["r2"],
        r2_std=std["r2"],
        cosine=mean["cosine"],
        groupings=groupings,
        rows=len(rows),
    )


def _answers(model: PreTrainedModel, batch) -> tuple[Tensor, Tensor | None]:
    with captured_states(model) as states:
        logits = getattr(model(**batch), "logits", None)
    return states[-1], logits


def _compare(name: str, said: Tensor, wanted: Tensor) -> dict[str, float]:
    """The figures of all rows, or of all their tokens: said, wanted (R, C)."""
    problem, said, wanted = PROBLEMS[name], said.double(), wanted.double()
    if isinstance(problem, Regression):
        return {"r2": problem.r2(said, wanted)}
    kind = SingleLabel.name if name == TokenLabels.name else name  # of tokens, each is a row here
    same = agrees(said.cpu().numpy(), wanted.cpu().numpy(), kind)
    return {
        "labels": float(same.mean()),
        "kl": max(0.0, problem.divergence(said, wanted).item()),  # no divergence is below 0, though a sum may be
    }
