"""How closely a converted model agrees with its original."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import captured_states, logits_of, padded
from fastmux.embedding.neighbours import NEIGHBOURS, nearest, same_neighbours
from fastmux.models.problems import PROBLEMS, Regression, SingleLabel, TokenLabels, Vectors, problem_of
from fastmux.passes.cascade import agrees

#: Figures are averaged over so many random groupings, as a row's result can depend on the rows of its group.
GROUPINGS = 3
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Agreement:
    """Means over random groupings of the rows. Which figures there are depends on the kind of labels.

    Attributes:
        problem: The kind of labels, as from `fastmux.models.problems.problem_of`; None without a head.
        labels: The share of the rows (of the tokens, if the model labels tokens) with the original's label; with
            several labels a row, the share with exactly the original's labels. None without labels.
        labels_std: The standard deviation of ``labels`` over the groupings; None for one grouping.
        kl: The mean Kullback-Leibler divergence D(original || converted) of the label distributions, in nats. With
            several labels a row it is the sum over them. None without labels.
        r2: For a regression, the share of the variance of the original's outputs that the converted model's explain.
        r2_std: The standard deviation of ``r2`` over the groupings; None for one grouping.
        vectors: For a model that embeds, the mean cosine of its vectors with the original's.
        similarities: For a model that embeds, the Spearman correlation of the cosines between rows, all pairs of them,
            with those between the original's.
        neighbours: For a model that embeds, the share of each row's ten nearest neighbours among these rows that are
            those of the original's vectors; None of ten rows or fewer.
        cosine: The mean cosine of the hidden states with the original's, at the positions that the head reads.
        groupings: The number of groupings.
        rows: The number of rows.
    """

    problem: str | None
    labels: float | None
    labels_std: float | None
    kl: float | None
    r2: float | None
    r2_std: float | None
    vectors: float | None
    similarities: float | None
    neighbours: float | None
    cosine: float
    groupings: int
    rows: int

    def figures(self) -> dict[str, str]:
        """The figures that there are, as names and values in words."""
        found = {}
        if self.problem is not None:
            kind = PROBLEMS[self.problem]
            if self.labels is not None:
                found[kind.same] = _measured(self.labels, self.labels_std)
            if self.kl is not None:
                found[kind.divergence_name] = f"{self.kl:.4f}"
            if self.r2 is not None:
                found["R\u00b2 of the outputs"] = _measured(self.r2, self.r2_std)
            if self.vectors is not None:
                found["cosine of vectors"] = f"{self.vectors:.4f}"
                found["rank correlation of similarities"] = f"{self.similarities:.4f}"
            if self.neighbours is not None:
                found["same nearest neighbours"] = f"{self.neighbours:.4f}"
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
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Agreement:
    """Compare two models in eval mode on ``rows``, in `groupings_of` random orders; ``on_rows`` is called with the
    number of rows after each batch."""
    measured = ("labels", "kl", "r2", "vectors", "similarities", "neighbours", "cosine")
    figures: dict[str, list[float]] = {figure: [] for figure in measured}
    name = None
    groupings = groupings_of(num_instances)
    for grouping in range(groupings):
        order = np.random.default_rng([seed, grouping]).permutation(len(rows))
        size = max(1, _BATCH_ROWS // num_instances) * num_instances
        cosines, said, wanted = [], [], []
        for begin in range(0, len(order), size):
            batch = padded(rows, order[begin : begin + size], tokenizer).to(original.device)
            (states, logits), (their_states, their_logits) = (_answers(model, batch) for model in (student, original))
            real = batch["attention_mask"] != 0
            kept = real[:, : states.shape[1]]  # some models give the first position only
            their_states = their_states[:, : states.shape[1]]
            cosines.append(F.cosine_similarity(states[kept].float(), their_states[kept].float(), dim=-1))
            if logits is not None:
                said.append(logits if logits.dim() == 2 else logits[real])
                wanted.append(their_logits if their_logits.dim() == 2 else their_logits[real])
            on_rows(len(real))
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
        vectors=mean["vectors"],
        similarities=mean["similarities"],
        neighbours=mean["neighbours"],
        cosine=mean["cosine"],
        groupings=groupings,
        rows=len(rows),
    )


def groupings_of(num_instances: int) -> int:
    """In how many orders a model is measured that joins so many rows."""
    return GROUPINGS if num_instances > 1 else 1


def _answers(model: PreTrainedModel, batch) -> tuple[Tensor, Tensor | None]:
    with captured_states(model) as states:
        logits = logits_of(model(**batch))
    return states[-1], logits


def _compare(name: str, said: Tensor, wanted: Tensor) -> dict[str, float]:
    """The figures of all rows, or of all their tokens: said and wanted are (R, C)."""
    problem, said, wanted = PROBLEMS[name], said.double(), wanted.double()
    if isinstance(problem, Regression):
        return {"r2": problem.r2(said, wanted)}
    if isinstance(problem, Vectors):
        vectors = said.cpu().numpy(), wanted.cpu().numpy()
        cosine, similarities = compare_vectors(*vectors)
        near = [nearest(one) for one in vectors] if len(said) > NEIGHBOURS else []
        shares = {"neighbours": float(same_neighbours(*near).mean())} if near else {}
        return {"vectors": cosine, "similarities": similarities, **shares}
    kind = SingleLabel.name if name == TokenLabels.name else name  # here each token is a row
    same = agrees(said.cpu().numpy(), wanted.cpu().numpy(), kind)
    # No divergence is below 0, but its rounded sum may be.
    return {"labels": float(same.mean()), "kl": max(0.0, problem.divergence(said, wanted).item())}


def compare_vectors(said: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """The mean cosine of vectors (R, D) with others, and the Spearman correlation of the cosines between rows, all
    pairs of them, with those between the others."""
    both = [F.normalize(torch.from_numpy(vectors).double()) for vectors in (said, wanted)]
    pairs = np.triu_indices(len(said), 1)
    ours, theirs = ((t @ t.T).numpy()[pairs] for t in both)
    return (both[0] * both[1]).sum(-1).mean().item(), float(spearmanr(ours, theirs).statistic)
