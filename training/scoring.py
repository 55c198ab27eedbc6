"""Scores over several groupings and for each slot of a group, and the difference to another model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from fastmux.training.metrics import Measure
from fastmux.training.run_result import Difference, Score

#: Sets of rows that are drawn for an interval.
RESAMPLES = 2000


@dataclass(frozen=True)
class Predicted:
    """A model's predictions for all rows of a split, in one order.

    Attributes:
        order: Each row's place in the split, in the order in which the model saw them.
        prediction: The predictions and the labels, in that order.
        loss: The mean loss of the rows.
        batch: The number of rows in a pass.
    """

    order: np.ndarray
    prediction: EvalPrediction
    loss: float
    batch: int

    def slots(self, num_instances: int) -> np.ndarray:
        """The slot of each row, in this order. Every batch begins with a new group."""
        return np.arange(len(self.order)) % self.batch % num_instances


@dataclass(frozen=True)
class SplitScores:
    """The scores of a split.

    Attributes:
        scores: The scores over the groupings, by name.
        slots: The score of the rows that had the first slot of their group, the second, and so on. It is empty for a
            model without slots.
        counts: What each row adds to the measure's counts, (rows, K), in the split's order: the mean over groupings.
    """

    scores: dict[str, Score]
    slots: list[Score]
    counts: np.ndarray


def score_split(
    measure: Measure, metric: str, rows: Dataset, predicted: list[Predicted], num_instances: int
) -> SplitScores:
    """Scores the predictions for a split.

    Args:
        measure: What is counted.
        metric: The score by which slots are compared.
        rows: The split.
        predicted: The predictions in each grouping.
        num_instances: The number of slots of a group; 1 for a model without slots.
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


def difference(score: Callable[[np.ndarray], np.ndarray], own: np.ndarray, other: np.ndarray) -> Difference:
    """A model's score less another's on the same rows, with a 95 % interval.

    Args:
        score: Makes the score of counts that are added up over rows: (K) -> ().
        own, other: What each row adds to the counts, (rows, K).
    """
    return resampled(lambda drawn: score(own[drawn].sum(0)) - score(other[drawn].sum(0)), len(own), RESAMPLES)


def resampled(apart: Callable[[np.ndarray], float | np.ndarray], rows: int, draws: int) -> Difference:
    """A difference of two models' scores, with a 95 % interval from a paired bootstrap: the same rows are drawn for
    both (Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapters 13 and 16).

    The interval covers another draw of evaluation rows for these two trained models. It does not cover another seed of
    the training.

    Args:
        apart: Makes the difference of the places of rows.
        rows: How many rows there are.
        draws: How often as many are drawn.
    """
    draw = np.random.default_rng(0)
    low, high = np.quantile([apart(draw.integers(0, rows, rows)) for _ in range(draws)], (0.025, 0.975))
    return Difference(float(apart(np.arange(rows))), float(low), float(high))
