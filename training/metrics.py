"""Scores, as the Hugging Face Trainer wants them: functions of predictions and labels that give a dict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import EvalPrediction

from training.features import IGNORE_INDEX


def to_ids(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Class ids in place of logits while an evaluation collects them; token ids (retrieval) stay."""
    return outputs.argmax(-1) if outputs.is_floating_point() else outputs


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of labelled rows (or of labelled positions: retrieval) that are right."""
    predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    labelled = labels != IGNORE_INDEX
    return {"accuracy": float((predictions == labels)[labelled].mean())}


def entity_f1(names: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Precision, recall and F1 of whole entities, as seqeval counts them, and token accuracy."""

    def score(prediction: EvalPrediction) -> dict[str, float]:
        predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        labelled = labels != IGNORE_INDEX
        said = [[names[p] for p in row[keep]] for row, keep in zip(predictions, labelled, strict=True)]
        true = [[names[t] for t in row[keep]] for row, keep in zip(labels, labelled, strict=True)]
        return {
            "f1": float(f1_score(true, said)),
            "precision": float(precision_score(true, said)),
            "recall": float(recall_score(true, said)),
            **accuracy(prediction),
        }

    return score
