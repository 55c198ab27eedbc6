"""Distillation: a multiplexed model learns from the plain encoder's predictions beside the labels (Hinton, Vinyals and
Dean, 2015, "Distilling the knowledge in a neural network", section 2).

Whoever multiplexes an encoder that is in use has a teacher for nothing. It labels the training rows once, before the
students' first step; what a step costs stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastmux.models.problems import PROBLEMS, MultiLabel, Problem, Regression
from fastmux.modules.retrieval import IGNORE_INDEX

#: The column of a training set that holds the teacher's logits: (C) of a row, or (L, C) where tokens are labelled.
TEACHER = "teacher_logits"


@dataclass(frozen=True)
class Distillation:
    """How much a student learns from its teacher.

    Attributes:
        weight: The share of the task's loss that is distillation. The labels' loss has the rest.
        temperature: Divides both models' logits. Above 1, the teacher's second choices count for more.
    """

    weight: float
    temperature: float

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor, problem: Problem | None = None) -> Tensor:
        """The divergence of the student from the teacher over rows, or tokens, that have a label, in float32; 0 if none
        has one. Where a row has several labels or numbers, it is the mean over them, as the task's own loss is.

        Args:
            student, teacher: The logits, (..., C).
            labels: The labels, (...), or (..., C) where a row has several; -100 where there is none.
            problem: The model's kind of labels. By default, integers are labels, floats (B, C) several, and floats (B)
                numbers.
        """
        if problem is None:
            floats = "regression" if labels.dim() == 1 else "multi_label_classification"
            problem = PROBLEMS[floats if labels.is_floating_point() else "single_label_classification"]
        if several := isinstance(problem, (MultiLabel, Regression)):
            labels = labels.reshape(student.shape)
        labelled = labels != IGNORE_INDEX
        student, teacher = student[labelled], teacher.reshape(student.shape)[labelled]
        if not labelled.any():
            return student.sum()
        if several:
            student, teacher = student[:, None], teacher[:, None]
        return problem.divergence(student, teacher, self.temperature)


def with_teacher(rows: Dataset, logits: np.ndarray) -> Dataset:
    """The data set with the teacher's logits, (rows, C) or, padded, (rows, longest, C), as the column `TEACHER`."""
    if logits.ndim == 3:
        lengths = map(len, rows["input_ids"])
        column = [own[:length].tolist() for own, length in zip(logits, lengths, strict=True)]
    else:
        column = logits.tolist()
    return rows.add_column(TEACHER, column)


class LogitsCollator:
    """A collator that also takes the teacher's logits, padded with zeros like the rows they belong to."""

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, features: list[dict]) -> dict:
        logits = [torch.tensor(row[TEACHER]) for row in features if TEACHER in row]
        batch = self.collator([{k: v for k, v in row.items() if k != TEACHER} for row in features])
        if logits:
            batch[TEACHER] = pad_sequence(logits, batch_first=True)
        return batch
