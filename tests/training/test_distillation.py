"""The multiplexed models learn from the plain encoder: the loss, the batches, and the Trainer that joins them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from models import FAMILIES, VOCAB
from transformers import TrainingArguments

import fastmux
from fastmux.testing import assert_agrees
from fastmux.training.distillation import TEACHER, Distillation, LogitsCollator, with_teacher
from fastmux.training.stages import MuxTrainer


def test_loss_is_the_divergence_of_the_softened_predictions():
    student, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, -100, 2, 1, -100])
    p, q = (F.softmax(t[labels >= 0].double() / 4.0, -1) for t in (teacher, student))
    expected = 16.0 * (p * (p / q).log()).sum(-1).mean()
    loss = Distillation(0.5, 4.0).loss(student, teacher, labels)
    assert_agrees(loss, expected)
    assert Distillation(0.5, 4.0).loss(teacher, teacher, labels).abs() < 1e-6


def test_gradient_keeps_its_size_at_any_temperature():
    """At high temperatures it tends to that of half the squared difference of centred logits, over C (section 2.1)."""
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    loss = Distillation(1.0, 1e3).loss(student, teacher, torch.zeros(4, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, student)
    difference = student.detach() - teacher
    expected = (difference - difference.mean(-1, keepdim=True)) / 6 / 4
    torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-4)


def test_rows_keep_their_logits():
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [0, 1]})
    assert with_teacher(rows, np.array([[0.5, 1.5], [2.5, 3.5]]))[1][TEACHER] == [2.5, 3.5]
    tokens = with_teacher(rows, np.arange(12.0).reshape(2, 3, 2))
    assert [len(row[TEACHER]) for row in tokens] == [3, 1] and tokens[1][TEACHER] == [[6.0, 7.0]]


def test_batches_carry_the_logits_padded_like_their_rows():
    collator = LogitsCollator(lambda features: {"n": len(features), "keys": set().union(*features)})
    batch = collator([{"ids": 1, TEACHER: [[1.0, 2.0]]}, {"ids": 2, TEACHER: [[3.0, 4.0], [5.0, 6.0]]}])
    assert batch["n"] == 2 and batch["keys"] == {"ids"}
    torch.testing.assert_close(batch[TEACHER], torch.tensor([[[1.0, 2], [0, 0]], [[3, 4], [5, 6]]]))
    assert TEACHER not in collator([{"ids": 1}])


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_trainer_divides_the_task_loss_between_labels_and_teacher(tmp_path, weight):
    torch.manual_seed(0)
    model = fastmux.TMuxForSequenceClassification.from_backbone(
        FAMILIES["bert"], num_instances=2, demultiplexer="unbind", num_labels=3, retrieval_loss_weight=0.1
    ).eval()
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    distillation = Distillation(weight, 2.0)
    trainer = MuxTrainer(model=model, args=arguments, distillation=distillation)
    inputs = {"input_ids": torch.randint(5, VOCAB, (4, 7)), "labels": torch.tensor([0, 2, 1, 1])}
    teacher = torch.randn(4, 3)
    torch.manual_seed(1)  # retrieval draws which instance to ask for
    outputs = model(**inputs)
    task = (1 - weight) * F.cross_entropy(outputs.logits, inputs["labels"])
    task = task + weight * distillation.loss(outputs.logits, teacher, inputs["labels"])
    torch.manual_seed(1)
    loss = trainer.compute_loss(model, {**inputs, TEACHER: teacher})
    assert_agrees(loss, 0.9 * task + 0.1 * outputs.retrieval_loss)
    torch.manual_seed(1)
    assert_agrees(trainer.compute_loss(model, dict(inputs)), outputs.loss)
