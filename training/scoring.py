"""Scores over several groupings, of each slot of a group, and beside another model's on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from training.metrics import Measure
from training.results import Difference, Score

#: Sets of rows that are drawn for an interval.
RESAMPLES = 2000
_CHUNK = 100


@dataclass(frozen=True)
class Predicted:
    """What a model said of all rows of a split, in one order of them.

    Attributes:
        order: places, in the split, of the rows as the model saw them.
        prediction: what it said, and the labels, in that order.
        loss: the mean over the rows.
        batch: rows of a pass.
    """

    order: np.ndarray
    prediction: EvalPrediction
    loss: float
    batch: int

    def slots(self, num_instances: int) -> np.ndarray:
        """Of each row in this order, its slot: every batch begins with a new group."""
        return np.arange(len(self.order)) % self.batch % num_instances


@dataclass(frozen=True)
class SplitScores:
    """The scores of a split.

    Attributes:
        scores: by name, over the groupings.
        slots: the metric of the rows that had each slot of their group, in order of the slots; none for a model that
            has none.
        counts: what each row adds to the metric's counts, (rows, K), the mean over groupings, in the split's order.
    """

    scores: dict[str, Score]
    slots: list[Score]
    counts: np.ndarray


def score_split(
    measure: Measure, metric: str, rows: Dataset, predicted: list[Predicted], num_instances: int
) -> SplitScores:
    """Scores what a model said of a split.

    Args:
        measure: what is counted.
        metric: of its scores, the one that slots are compared by.
        rows: the split.
        predicted: once a grouping.
        num_instances: slots of a group; 1 for a model that has none.
    """
    values: dict[str, list[float]] = {}
    slots: list[list[float]] = [[] for _ in range(num_instances if num_instances > 1 else 0)]
    total = 0.0
    for grouping in predicted:
        counts = measure.count(grouping.prediction, rows.select(grouping.order))
        for name, value in measure.score(counts.sum(0)).items():
            values.setdefault(name, []).append(float(value))
        values.setdefault("loss", []).append(grouping.loss)
        own = grouping.slots(num_instances)
        for slot, found in enumerate(slots):
            if (own == slot).any():
                found.append(float(measure.score(counts[own == slot].sum(0))[metric]))
        placed = np.empty_like(counts)
        placed[grouping.order] = counts
        total = total + placed
    return SplitScores(
        {name: Score.of(found) for name, found in values.items()},
        [Score.of(found) for found in slots if found],
        total / len(predicted),
    )


def difference(measure: Measure, metric: str, own: np.ndarray, other: np.ndarray) -> Difference:
    """A model's metric less another's on the same rows, with a 95 % interval from a paired bootstrap: rows are drawn
    anew, with both models' counts (Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapters 13 and 16).

    The interval is that of another draw of evaluation rows, for these two trained models; another seed of the training
    is not in it.

    Args:
        own, other: (rows, K) counts of `SplitScores`.
    """
    rows = len(own)
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES // _CHUNK):
        times = generator.multinomial(rows, np.full(rows, 1 / rows), size=_CHUNK).astype(float)
        drawn.append(measure.score(times @ own)[metric] - measure.score(times @ other)[metric])
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    mean = measure.score(own.sum(0))[metric] - measure.score(other.sum(0))[metric]
    return Difference(float(mean), float(low), float(high))
