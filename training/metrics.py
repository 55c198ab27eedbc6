"""Scores of predictions.

Every score here follows from counts that add up over rows, so that one `Measure` gives it of all rows, of those that
had one slot of their groups, and of rows drawn anew (`fastmux.training.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from scipy.special import expit
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import precision_recall_curve
from transformers import EvalPrediction

import fastmux.training.regression
from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.training.entities import seqeval_tags


def to_ids(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Class ids in place of logits, to save memory while an evaluation collects them. Token ids (retrieval) stay, and
    so do logits whose labels are floats."""
    return outputs.argmax(-1) if outputs.is_floating_point() and not labels.is_floating_point() else outputs


@dataclass(frozen=True)
class Measure:
    """The scores of a prediction, by name.

    Attributes:
        count: Makes, of a prediction and its rows, what each row adds to K counts: (rows, K).
        score: Makes the scores, by name, of counts that are added up over rows: (..., K) -> (...).
    """

    count: Callable[[EvalPrediction, Dataset], np.ndarray]
    score: Callable[[np.ndarray], dict[str, np.ndarray]]

    def __call__(self, prediction: EvalPrediction, rows: Dataset) -> dict[str, float]:
        return {name: float(value) for name, value in self.score(self.count(prediction, rows).sum(0)).items()}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where there is nothing."""
    return part / np.maximum(whole, 1e-9)


def _accuracy(sums: np.ndarray) -> dict[str, np.ndarray]:
    return {"accuracy": _share(sums[..., 0], sums[..., 1])}


def _f1(right: np.ndarray, said: np.ndarray, true: np.ndarray) -> np.ndarray:
    return _share(2 * right, said + true)


def _right_and_labelled(prediction: EvalPrediction) -> np.ndarray:
    """The number of right labels, and of labels, of each row: (rows, 2)."""
    predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    labelled = (labels != IGNORE_INDEX).reshape(len(labels), -1)
    right = (predictions == labels).reshape(len(labels), -1) & labelled
    return np.stack([right.sum(1), labelled.sum(1)], 1).astype(float)


#: Share of labelled rows (or of labelled positions: retrieval) that are right.
accuracy = Measure(lambda prediction, rows: _right_and_labelled(prediction), _accuracy)


def classification(names: list[str]) -> Measure:
    """Accuracy; with two labels, the F1 of the second one, too, as GLUE has it for QQP."""
    if len(names) != 2:
        return accuracy

    def count(prediction: EvalPrediction, rows: Dataset) -> np.ndarray:
        said, true = (np.asarray(ids) == 1 for ids in (prediction.predictions, prediction.label_ids))
        return np.column_stack([_right_and_labelled(prediction), said & true, said, true])

    return Measure(count, lambda sums: {**_accuracy(sums), "f1": _f1(sums[..., 2], sums[..., 3], sums[..., 4])})


def _words(prediction: EvalPrediction, rows: Dataset) -> np.ndarray:
    counts = _right_and_labelled(prediction)
    counts[:, 1] += [sum(tag != IGNORE_INDEX for tag in tags) for tags in rows["missed"]]
    return counts


#: Share of labelled words that are right; as for `entity_f1`, those that were cut off a row are wrong.
token_accuracy = Measure(_words, _accuracy)


def entity_f1(names: list[str], scheme: str = "entities") -> Measure:
    """Precision, recall and F1 of whole entities, as seqeval counts them, token accuracy, and the mean F1 of the tags
    of single words, "O" among them, each weighted by how often it occurs.

    Every word of the data counts. Where a row was cut, nothing was predicted for what was cut off: its entities, and
    the one that the cut goes through, are missed, and its words are wrong.

    Raises:
        ValueError: The tags do not fit the ``scheme``, see `fastmux.training.entities`.
    """
    read = seqeval_tags(names, scheme)

    def count(prediction: EvalPrediction, rows: Dataset) -> np.ndarray:
        predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        counts, tags = [], np.arange(len(names))
        for own, gold, missed in zip(predictions, labels, rows["missed"], strict=True):
            own, gold = own[gold != IGNORE_INDEX], gold[gold != IGNORE_INDEX]
            missed = [tag for tag in missed if tag != IGNORE_INDEX]
            said = set(get_entities([read[label] for label in own] + ["O"] * len(missed)))
            true = set(get_entities([read[label] for label in (*gold, *missed)]))
            entities = [len(said & true), len(said), len(true)]
            by_tag = [(own == gold) & (gold == tags[:, None]), own == tags[:, None]]
            occurs = np.bincount([*gold, *missed], minlength=len(names))
            words = [*(hits.sum(1) for hits in by_tag), occurs]
            counts.append([(own == gold).sum(), len(gold) + len(missed), *entities, *np.concatenate(words)])
        return np.array(counts, float)

    def score(sums: np.ndarray) -> dict[str, np.ndarray]:
        right, said, true = (sums[..., place] for place in (2, 3, 4))
        found = {"f1": _f1(right, said, true), "precision": _share(right, said), "recall": _share(right, true)}
        by_tag = sums[..., 5:].reshape(*sums.shape[:-1], 3, len(names))
        own = _f1(*(by_tag[..., place, :] for place in range(3)))
        weighted = _share((own * by_tag[..., 2, :]).sum(-1), by_tag[..., 2, :].sum(-1))
        return {**found, "weighted_f1": weighted, **_accuracy(sums)}

    return Measure(count, score)


def multi_label(names: list[str], thresholds: list[float] | None = None) -> Measure:
    """Where any of the labels may hold: accuracy (the mean over labels), F1 over all decisions (micro) and as the mean
    over labels (macro), and accuracy and F1 of each label.

    Args:
        names: The names of the labels.
        thresholds: The probability above which each label is predicted; 0.5 if None.
    """
    limits = np.full(len(names), 0.5) if thresholds is None else np.asarray(thresholds)

    def count(prediction: EvalPrediction, rows: Dataset) -> np.ndarray:
        said, true = expit(np.asarray(prediction.predictions, float)) > limits, np.asarray(prediction.label_ids) == 1
        return np.column_stack([np.ones(len(true)), said == true, said & true, said, true])

    def score(sums: np.ndarray) -> dict[str, np.ndarray]:
        rows, parts = sums[..., :1], sums[..., 1:].reshape(*sums.shape[:-1], 4, len(names))
        agreed, right, said, true = (parts[..., place, :] for place in range(4))
        own, own_f1 = _share(agreed, rows), _f1(right, said, true)
        return {
            "accuracy": own.mean(-1),
            "micro_f1": _f1(right.sum(-1), said.sum(-1), true.sum(-1)),
            "macro_f1": own_f1.mean(-1),
            **{f"accuracy: {name}": own[..., place] for place, name in enumerate(names)},
            **{f"f1: {name}": own_f1[..., place] for place, name in enumerate(names)},
        }

    return Measure(count, score)


def best_thresholds(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The threshold of each label with the best F1 on these rows: logits (rows, C), labels (rows, C) of 0 and 1.

    It lies half-way between two neighbouring probabilities. A label that no row has keeps 0.5.
    """
    thresholds = []
    for own, holds in zip(expit(np.asarray(logits, float)).T, np.asarray(labels).T == 1, strict=True):
        if not holds.any():
            thresholds.append(0.5)
            continue
        precision, recall, limits = precision_recall_curve(holds, own)
        f1 = _f1(precision * recall, precision, recall)[:-1]
        best = len(f1) - 1 - int(f1[::-1].argmax())  # of equal ones the highest limit
        below = limits[best - 1] if best else 0.0
        thresholds.append(float((limits[best] + below) / 2))
    return thresholds


#: Of numbers, see `fastmux.training.regression`.
regression = Measure(fastmux.training.regression.sums, fastmux.training.regression.scores)


def scores_of(kind: str, metric: str, names: list[str], scheme: str = "entities") -> Measure:
    """The measure of a task.

    Args:
        kind: The kind of head: "sequence", "multi_label", "regression" or "token".
        metric: The score that the report shows.
        names: The names of the labels.
        scheme: What tags say, see `fastmux.training.entities`.
    """
    if kind == "token":
        return entity_f1(names, scheme) if metric == "f1" else token_accuracy
    if kind == "regression":
        return regression
    return multi_label(names) if kind == "multi_label" else classification(names)
