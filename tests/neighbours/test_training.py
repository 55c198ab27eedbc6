"""What one may do with Hugging Face's Trainer and data collators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neighbours.harness import LABELS, PAD, TASKS, Subject, assert_alike, cases, same
from neighbours.words import words_tokenizer
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

QUIET = {"report_to": [], "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "seed": 1}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def examples(s: Subject, size: int) -> list[dict]:
    rows = s.batch(size)
    rows |= s.labels_of(rows)
    return [{name: t[i] for name, t in rows.items()} for i in range(size)]


def trainer(s: Subject, size: int = 6, model=None, more: dict | None = None, **options) -> Trainer:
    arguments = TrainingArguments(str(s.folder / "out"), **{**QUIET, **options})
    data = examples(s, size)
    return Trainer(
        s.model if model is None else model, arguments, train_dataset=data, eval_dataset=data, **(more or {})
    )


def trained(size: int = 6, more: dict | None = None, **options):
    def thing(s: Subject):
        before = s.values()
        t = trainer(s, size, more=more, **{"max_steps": 2, "per_device_train_batch_size": 3, **options})
        result = t.train()
        keys = sorted(k for k in t.state.log_history[0] if k in ("loss", "grad_norm", "learning_rate"))
        s.model = s.model.eval().requires_grad_(True)
        s.model.zero_grad()
        return same(s.values(), before), result.global_step, keys, np.isfinite(result.training_loss)

    return thing


def norm_with_accumulation(s: Subject):
    """Four small batches have the gradient norm of one batch that holds them all."""
    norms = []
    for size, steps in ((8, 1), (2, 4)):
        model = s.remade(**STILL, **alone(s))
        t = trainer(
            s,
            8,
            model,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
            max_grad_norm=1e9,
        )
        t.train()
        norms.append(t.state.log_history[0]["grad_norm"])
    return round(norms[1] / norms[0], 1)


def alone(s: Subject) -> dict:
    """Without the instances that retrieval draws."""
    return {} if s.ends is None else {"retrieval_loss_weight": 0.0}


def short_last_batch(s: Subject):
    """Accumulation over batches of 3, 3 and 1: training ends, and every weight moved."""
    t = trainer(s, 7, num_train_epochs=1, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    result = t.train()
    s.model.eval().zero_grad()
    return result.global_step, np.isfinite(result.training_loss)


def predicted(size: int, batch: int, **options):
    """`predict` on any number of rows: what comes out is one array a row, and labels beside it."""

    def thing(s: Subject):
        t = trainer(s, size, per_device_eval_batch_size=batch, **options)
        seen = {}

        def metrics(p):
            seen["types"] = [type(x).__name__ for x in (p.predictions, p.label_ids)]
            return {"rows": len(p.label_ids)}

        t.compute_metrics = metrics
        out = t.predict(examples(s, size))
        evaluated = t.evaluate()
        keys = sorted(k for k in evaluated if k in ("eval_loss", "eval_rows"))
        return out.predictions, out.label_ids, seen, keys, out.metrics["test_rows"]

    return thing


def other_pad(s: Subject):
    """A tokenizer that pads with another token than the configuration says: the Trainer aligns the two."""
    tokenizer = words_tokenizer(pad_id=1)
    t = trainer(s, 6, more={"processing_class": tokenizer}, max_steps=1, per_device_train_batch_size=3)
    t.train()
    s.model.eval().zero_grad()
    return s.model.config.pad_token_id


def collated(s: Subject):
    """Hugging Face's collators give what the model takes."""
    tokenizer = words_tokenizer(pad_id=PAD)
    texts = ["the film was good", "a very dull film of the year", "bad"]
    features = [dict(tokenizer(text)) for text in texts]
    for feature in features:
        feature.pop("token_type_ids", None)
    if s.task == "masked":
        torch.manual_seed(3)
        batch = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)(features)
    elif s.task == "token":
        for feature in features:
            feature["labels"] = [i % LABELS for i, _ in enumerate(feature["input_ids"])]
        batch = DataCollatorForTokenClassification(tokenizer)(features)
    else:
        if s.task == "sequence":
            for i, feature in enumerate(features):
                feature["label"] = i % LABELS
        batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)(features)
    return s.model(**batch)


THINGS = {
    "train": trained(),
    "train with a short last batch": short_last_batch,
    "train on batches of one": trained(per_device_train_batch_size=1),
    "train in bfloat16": trained(bf16=True),
    "train with checkpointing": trained(gradient_checkpointing=True),
    "train with label smoothing": trained(label_smoothing_factor=0.1),
    "train in groups of length": trained(train_sampling_strategy="group_by_length"),
    "norm with accumulation": norm_with_accumulation,
    "predict an uneven number": predicted(7, 4),
    "another pad": other_pad,
    "collators": collated,
}
LABELLED = ("sequence", "token", "masked")
ONLY = {"collators": tuple(TASKS), "train in groups of length": ("sequence",)}
ONLY = dict.fromkeys(THINGS, LABELLED) | ONLY
SLOW = set(THINGS) - {"norm with accumulation", "another pad"}
EXPLAINED: dict = {}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY, SLOW))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path, EXPLAINED, thing)
