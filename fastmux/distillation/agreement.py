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
from fastmux.passes.shares import Share

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
        interval: The 95 % interval of ``labels``, or of ``neighbours``, that these rows leave open; None without.
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
    interval: tuple[float, float] | None = None

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
    counted, pairs = [], None
    groupings = groupings_of(num_instances)
    for grouping in range(groupings):
        order = np.random.default_rng([seed, grouping]).permutation(len(rows))
        size = max(1, _BATCH_ROWS // num_instances) * num_instances
        cosines, said, wanted, of_row = [], [], [], []
        for begin in range(0, len(order), size):
            batch = padded(rows, order[begin : begin + size], tokenizer).to(original.device)
            (states, logits), (their_states, their_logits) = (_answers(model, batch) for model in (student, original))
            real = batch["attention_mask"] != 0
            kept = real[:, : states.shape[1]]  # some models give the first position only
            their_states = their_states[:, : states.shape[1]]
            cosines.append(F.cosine_similarity(states[kept].float(), their_states[kept].float(), dim=-1))
            if logits is not None:
                own = order[begin : begin + size]
                of_row.append(own if logits.dim() == 2 else np.repeat(own, real.sum(1).cpu()))
                said.append(logits if logits.dim() == 2 else logits[real])
                wanted.append(their_logits if their_logits.dim() == 2 else their_logits[real])
            on_rows(len(real))
        figures["cosine"].append(torch.cat(cosines).mean().item())
        if said:
            name = problem_of(original)
            rows_of = np.concatenate(of_row)
            places = np.argsort(rows_of, kind="stable")  # all groupings in the order of the rows
            both = torch.cat(said)[places].double(), torch.cat(wanted)[places].double()
            if (cases := _cases(name, *both, rows_of[places])) is not None:
                counted.append(cases[0])
                pairs = cases[1:]
            for figure, value in _compare(name, *both).items():
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
        interval=Share.of(np.mean(counted, axis=0), *pairs).interval() if pairs is not None else None,
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
    problem = PROBLEMS[name]
    if isinstance(problem, Regression):
        return {"r2": problem.r2(said, wanted)}
    if isinstance(problem, Vectors):
        vectors = said.cpu().numpy(), wanted.cpu().numpy()
        cosine, similarities = compare_vectors(*vectors)
        near = [nearest(one) for one in vectors] if len(said) > NEIGHBOURS else []
        shares = {"neighbours": float(same_neighbours(*near).mean())} if near else {}
        return {"vectors": cosine, "similarities": similarities, **shares}
    # No divergence is below 0, but its rounded sum may be.
    return {"labels": float(_same(name, said, wanted).mean()), "kl": max(0.0, problem.divergence(said, wanted).item())}


def _same(name: str, said: Tensor, wanted: Tensor) -> np.ndarray:
    kind = SingleLabel.name if name == TokenLabels.name else name  # here each token is a row
    return agrees(said.cpu().numpy(), wanted.cpu().numpy(), kind)


def _cases(
    name: str, said: Tensor, wanted: Tensor, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None] | None:
    """What a share is counted on, as `Share.of` takes it: of labels whether each is the same, of vectors whether each
    neighbour is; None of numbers, and of too few vectors."""
    if name == Vectors.name:
        if len(said) <= NEIGHBOURS:
            return None
        near = nearest(wanted.cpu().numpy())
        same = same_neighbours(nearest(said.cpu().numpy()), near)
        return same.ravel(), np.repeat(np.arange(len(said)), NEIGHBOURS), near.ravel()
    if name == Regression.name:
        return None
    return _same(name, said, wanted), rows if name == TokenLabels.name else None, None


def compare_vectors(said: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """The mean cosine of vectors (R, D) with others, and the Spearman correlation of the cosines between rows, all
    pairs of them, with those between the others."""
    both = [F.normalize(torch.from_numpy(vectors).double()) for vectors in (said, wanted)]
    pairs = np.triu_indices(len(said), 1)
    ours, theirs = ((t @ t.T).numpy()[pairs] for t in both)
    return (both[0] * both[1]).sum(-1).mean().item(), float(spearmanr(ours, theirs).statistic)
