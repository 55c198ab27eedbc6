"""Gradients that a step accumulates over batches are those of one batch that holds all their rows."""

from __future__ import annotations

import copy

import pytest
import torch
from models import BERT, PAD, VOCAB
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import fastmux
from fastmux.testing import relative_error
from fastmux.training.distillation import TEACHER, Distillation
from fastmux.training.stages import MuxTrainer

STILL = copy.deepcopy(BERT)
STILL.hidden_dropout_prob = STILL.attention_probs_dropout_prob = 0.0
STILL.num_labels = 4
#: Lengths of the rows: batches of two, the last of which is the only one of its step.
LENGTHS = (3, 3, 7, 7, 5, 5, 6, 6)


def rows(labelled: float, teacher: bool = False) -> list[dict]:
    """Rows of `LENGTHS`, in which a share of the tokens is ``labelled``, another one in each."""
    made = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(5, VOCAB, (length,))
        labels = torch.randint(0, 4, (length,))
        labels[1:][torch.rand(length - 1) > labelled ** (1 + number % 3)] = -100
        row = {"input_ids": ids, "labels": labels}
        if teacher:
            row[TEACHER] = torch.randn(length, 4).double()
        made.append(row)
    return made


def collate(given: list[dict]) -> dict:
    """Rows padded to the longest one."""
    longest = max(len(row["input_ids"]) for row in given)

    def padded(name: str, value: float) -> torch.Tensor:
        pad = torch.nn.functional.pad
        return torch.stack(
            [pad(t, (*(0, 0) * (t.dim() - 1), 0, longest - len(t)), value=value) for t in (r[name] for r in given)]
        )

    batch = {"input_ids": padded("input_ids", PAD)}
    batch["attention_mask"] = (batch["input_ids"] != PAD).long()
    if given[0]["labels"].dim():
        batch["labels"] = padded("labels", -100)
    else:
        batch["labels"] = torch.stack([row["labels"] for row in given])
    return batch | ({TEACHER: padded(TEACHER, 0.0)} if TEACHER in given[0] else {})


class Gradients(TrainerCallback):
    """Those of every step."""

    def __init__(self):
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            self.steps.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))


def gradients(kind, model, data: list[dict], size: int, steps: int, folder, **more) -> list[torch.Tensor]:
    """Of every optimizer step of an epoch, in batches of ``size`` rows, ``steps`` of them accumulated; weights stay."""
    seen = Gradients()
    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        num_train_epochs=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    model = copy.deepcopy(model)
    kind(model, arguments, train_dataset=data, data_collator=collate, callbacks=[seen], **more).train()
    return seen.steps


@pytest.fixture
def same_draws(monkeypatch):
    """Retrieval asks for one instance at a position, whatever the batch."""

    def asked(model, labels, given):
        groups, instances, length = labels.shape
        return (torch.arange(length) % instances).expand(groups, length)

    monkeypatch.setattr("fastmux.models.losses.instances_asked", asked)
    monkeypatch.setattr("fastmux.models.heads.instances_asked", asked)


def tmux(cls=fastmux.TMuxForTokenClassification, **options):
    torch.manual_seed(3)
    return cls.from_backbone(STILL, 2, demultiplexer="index", **options).double()


def joined():
    torch.manual_seed(3)
    return fastmux.JoinedForTokenClassification.from_backbone(
        BertForTokenClassification(STILL), 2, row_layers=1, last_layers=0
    ).double()


def plain():
    torch.manual_seed(3)
    return BertForTokenClassification(STILL).double()


def check(kind, make, data, folder, bound: float = 1e-10, **more) -> None:
    """Three batches a step and one in the last, beside batches of six rows, the last one of two."""
    parts = gradients(kind, make(), data, 2, 3, folder, **more)
    whole = gradients(kind, make(), data, 6, 1, folder, **more)
    assert len(parts) == len(whole) == 2
    for part, all_at_once in zip(parts, whole, strict=True):
        assert relative_error(part, all_at_once) < bound


@pytest.mark.parametrize(
    ("make", "retrieval"), [(plain, None), (joined, None), (tmux, 0.0), (tmux, 0.3)], ids=["plain", "joined", "t", "r"]
)
def test_tokens_weigh_alike_in_our_trainer(make, retrieval, same_draws, tmp_path):
    options = {} if retrieval is None else {"retrieval_loss_weight": retrieval}
    check(MuxTrainer, lambda: make(**options), rows(0.7), tmp_path, per_token=True)


@pytest.mark.parametrize(("make", "options"), [(joined, {}), (tmux, {"retrieval_loss_weight": 0.0})], ids=["j", "t"])
def test_tokens_weigh_alike_in_transformers_trainer(make, options, tmp_path):
    check(Trainer, lambda: make(**options), rows(0.7), tmp_path)


def test_retrieval_has_the_labels_share_where_nothing_else_is_known(same_draws, tmp_path):
    """Exact where every token has a label."""
    check(Trainer, lambda: tmux(retrieval_loss_weight=0.3), rows(1.0), tmp_path)


@pytest.mark.parametrize("cls", [fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval])
def test_so_do_tokens_that_are_decoded(cls, same_draws, tmp_path):
    check(Trainer, lambda: tmux(cls), rows(1.0), tmp_path)
    if cls is fastmux.TMuxForMaskedLM:
        check(MuxTrainer, lambda: tmux(cls), rows(0.7), tmp_path, per_token=True)


def test_a_teacher_weighs_as_the_labels_do(same_draws, tmp_path):
    check(
        MuxTrainer,
        lambda: tmux(retrieval_loss_weight=0.3),
        rows(0.7, teacher=True),
        tmp_path,
        1e-6,  # the divergence is computed in float32
        per_token=True,
        distillation=Distillation(0.6, 2.0),
    )


@pytest.mark.parametrize("kind", [Trainer, MuxTrainer])
def test_rows_are_averaged_as_before(kind, same_draws, tmp_path):
    """A sequence's loss is a mean over rows: of batches of as many rows, and of the one that is left at the end."""
    data = [{**row, "labels": torch.tensor(number % 4)} for number, row in enumerate(rows(1.0))]

    def make():
        torch.manual_seed(3)
        cls = fastmux.TMuxForSequenceClassification
        return cls.from_backbone(STILL, 2, num_labels=4, retrieval_loss_weight=0.0).double()

    check(kind, make, data, tmp_path)
    if kind is MuxTrainer:
        encoder = BertForSequenceClassification(STILL).double()
        check(kind, lambda: encoder, data, tmp_path)


def test_a_batch_without_a_label_adds_nothing(same_draws, tmp_path):
    data = rows(1.0)
    for row in data[2:4]:
        row["labels"] = torch.full_like(row["labels"], -100)
    for make in (plain, joined, lambda: tmux(retrieval_loss_weight=0.0)):
        check(MuxTrainer, make, data, tmp_path, per_token=True)
