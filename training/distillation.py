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
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastmux.distillation.trainer import divergence
from fastmux.modules.retrieval import IGNORE_INDEX

#: The column of a training set that holds the teacher's logits: (C) of a row, or (L, C) where tokens are labelled.
TEACHER = "teacher_logits"


@dataclass(frozen=True)
class Distillation:
    """How much a student learns from its teacher.

    Attributes:
        weight: share of the task's loss that is distillation; the labels' loss has the rest.
        temperature: by which both sides' logits are divided: above 1, the teacher's second choices count for more.
    """

    weight: float
    temperature: float

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """`divergence` of what has a label: student and teacher (..., C), labels (...) with -100 where there is none ->
        scalar, in float32. Where labels are floats, (B, C), each is a question of its own: its sigmoid is the softmax
        of its logit and 0. Floats (B) are values of a regression: the mean squared difference. 0 where nothing has a
        label."""
        if labels.is_floating_point() and labels.dim() == 1:
            return F.mse_loss(student.float().flatten(), teacher.float().flatten())
        labelled = labels != IGNORE_INDEX
        student, teacher = student[labelled], teacher[labelled]
        if labels.is_floating_point():
            student, teacher = (torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (student, teacher))
        return divergence(student, teacher, self.temperature) if labelled.any() else student.sum()


def with_teacher(rows: Dataset, logits: np.ndarray) -> Dataset:
    """The data set with the teacher's logits, (rows, C) or, padded, (rows, longest, C), as the column `TEACHER`."""
    if logits.ndim == 3:
        lengths = map(len, rows["input_ids"])
        column = [own[:length].tolist() for own, length in zip(logits, lengths, strict=True)]
    else:
        column = logits.tolist()
    return rows.add_column(TEACHER, column)


class TeacherCollator:
    """A collator that also takes the teacher's logits, padded with zeros like the rows they belong to."""

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, features: list[dict]) -> dict:
        logits = [torch.tensor(row[TEACHER]) for row in features if TEACHER in row]
        batch = self.collator([{k: v for k, v in row.items() if k != TEACHER} for row in features])
        if logits:
            batch[TEACHER] = pad_sequence(logits, batch_first=True)
        return batch
