"""Scores: functions of what the Hugging Face Trainer collected and of the rows it ran on, that give a dict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import EvalPrediction

from fastmux.modules.retrieval import IGNORE_INDEX


def to_ids(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Class ids in place of logits while an evaluation collects them; token ids (retrieval) stay."""
    return outputs.argmax(-1) if outputs.is_floating_point() else outputs


def accuracy(prediction: EvalPrediction, rows: Dataset) -> dict[str, float]:
    """Share of labelled rows (or of labelled positions: retrieval) that are right."""
    predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    labelled = labels != IGNORE_INDEX
    return {"accuracy": float((predictions == labels)[labelled].mean())}


def classification(names: list[str]) -> Callable[[EvalPrediction, Dataset], dict[str, float]]:
    """Accuracy; with two labels, the F1 of the second one, too, as GLUE has it for QQP."""

    def score(prediction: EvalPrediction, rows: Dataset) -> dict[str, float]:
        scores = accuracy(prediction, rows)
        if len(names) == 2:
            said, true = (np.asarray(ids) == 1 for ids in (prediction.predictions, prediction.label_ids))
            scores["f1"] = float(2 * (said & true).sum() / max(1, said.sum() + true.sum()))
        return scores

    return score


def token_accuracy(prediction: EvalPrediction, rows: Dataset) -> dict[str, float]:
    """Share of labelled words that are right; as for `entity_f1`, those that were cut off a row are wrong."""
    predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    labelled = labels != IGNORE_INDEX
    missed = sum(tag != IGNORE_INDEX for tags in rows["missed"] for tag in tags)
    return {"accuracy": float((predictions == labels)[labelled].sum() / max(1, labelled.sum() + missed))}


def scores_of(kind: str, metric: str, names: list[str]) -> Callable[[EvalPrediction, Dataset], dict[str, float]]:
    """What scores a task of a kind of head ("sequence" or "token") whose report shows ``metric``."""
    if kind == "sequence":
        return classification(names)
    return entity_f1(names) if metric == "f1" else token_accuracy


def entity_f1(names: list[str]) -> Callable[[EvalPrediction, Dataset], dict[str, float]]:
    """Precision, recall and F1 of whole entities, as seqeval counts them, and token accuracy.

    Every word of the data counts. Where a row was cut, nothing was predicted for what was cut off: its entities, and
    the one that the cut goes through, are missed, and its words are wrong.
    """

    def score(prediction: EvalPrediction, rows: Dataset) -> dict[str, float]:
        predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        true, said, right = [], [], 0
        for own, gold, missed in zip(predictions, labels, rows["missed"], strict=True):
            own, gold = own[gold != IGNORE_INDEX], gold[gold != IGNORE_INDEX]
            right += int((own == gold).sum())
            true.append([names[label] for label in (*gold, *missed)])
            said.append([names[label] for label in own] + ["O"] * len(missed))
        return {
            "f1": float(f1_score(true, said)),
            "precision": float(precision_score(true, said)),
            "recall": float(recall_score(true, said)),
            "accuracy": right / max(1, sum(map(len, true))),
        }

    return score
