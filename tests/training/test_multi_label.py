"""Several labels a row: columns of one's own files, the loss and the scores, thresholds from another split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, EvalPrediction

import fastmux
from fastmux.testing import assert_agrees
from fastmux.training.arguments import parse
from fastmux.training.distillation import Distillation
from fastmux.training.inputs import prepare
from fastmux.training.metrics import best_thresholds, multi_label
from fastmux.training.tasks import TASKS
from fastmux.training.train import main

TOPICS = ["news", "sport"]
ROWS = [(f"row {row} speaks of {('all', 'ball', 'call')[row % 3]}", row % 3 > 0, row % 2) for row in range(30)]
SMALL = "--hidden_size 16 --num_heads 2 --num_layers 1 --intermediate_size 16 --max_length 16 --vocab_size 300"
SMALL += " --task_rows 4 --retrieval_rows 4 --groupings 2 --throughput_seconds 0.01 --use_cpu --disable_tqdm true"


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "train.csv").write_text("text,news,sport\n" + "".join(f"{t},{int(a)},{b}\n" for t, a, b in ROWS))
    lines = (json.dumps({"text": t, "news": bool(a), "sport": b}) + "\n" for t, a, b in ROWS)
    (tmp_path / "dev.jsonl").write_text("".join(lines))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    files = ["--train_file", str(folder / "train.csv"), "--validation_file", str(folder / "dev.jsonl")]
    return [*files, "--label_column", *TOPICS, *SMALL.split(), *more]


def test_columns_of_ones_own_files(files, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmux.training.report.plot", lambda *_: None)
    folder = tmp_path / "run"
    more = ("--test_file", str(files / "dev.jsonl"), "--output_dir", str(folder), "--variants", "plain", "unbind")
    result = main(arguments(files, *more, "--max_steps", "3", "--learning_rate", "0.01"))
    assert result.data["labels"] == TOPICS and result.metric == "accuracy"
    for name, found in result.variants.items():
        # The first split has given the thresholds and is scored at 0.5; the other, of the same rows, at those.
        at_half, chosen = found.scores["validation"], found.scores["test"]
        assert set(found.thresholds) == set(TOPICS)
        for label in TOPICS:
            assert chosen[f"f1: {label}"].mean >= at_half[f"f1: {label}"].mean - 0.05
        for scores in (at_half, chosen):
            own = [scores[f"accuracy: {label}"].mean for label in TOPICS]
            assert scores["accuracy"].mean == pytest.approx(np.mean(own))
        assert (found.difference_to_plain == {}) == (name == "plain") == (found.slots["test"] == [])
    slots = result.variants["unbind"].slots["test"]
    assert len(slots) == 2 and all(0 <= slot.mean <= 1 for slot in slots)
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "plain/task/model")
    ours = fastmux.TMuxForSequenceClassification.from_pretrained(folder / "unbind/task/model")
    for model in (plain, ours):
        assert model.config.problem_type == "multi_label_classification" and model.config.num_labels == 2


def test_one_split_has_no_thresholds_of_its_own(files, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmux.training.report.plot", lambda *_: None)
    more = ("--output_dir", str(tmp_path / "run"), "--variants", "plain", "--max_steps", "1")
    assert main(arguments(files, *more)).variants["plain"].thresholds is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,2,0\n", r"train\.csv: line 2: 'news' must be 0 or 1, got '2'"),
        ("a,0,\n", r"train\.csv: line 2: 'sport' has no label"),
        ("a,0,1\n" * 8, r"train\.csv: 'news' is 0 in every row, expected rows of both kinds"),
    ],
)
def test_bad_columns_are_refused(files, tmp_path, row, message):
    (files / "train.csv").write_text("text,news,sport\n" + row)
    with pytest.raises(ValueError, match=message):
        main(arguments(files, "--output_dir", str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_column_that_is_not_there(files):
    options = arguments(files)
    options[options.index("sport")] = "sports"
    with pytest.raises(ValueError, match=r"train\.csv has no column 'sports'; there are 'text', 'news', 'sport'"):
        prepare(parse(options))


def test_research_articles_are_parted(tmp_path):
    task = TASKS["research_articles"]()
    header = ",".join(["ID", "TITLE", "ABSTRACT", *task.labels])
    rows = [f'{row},Title {row},"An abstract, of {row}",1,0,0,0,0,{row % 2}' for row in range(40)]
    (tmp_path / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    data = task.checked(str(tmp_path))
    sizes = [len(split) for split in (data.train, *data.evaluation.values())]
    texts = [text for split in (data.train, *data.evaluation.values()) for text in split["text"]]
    assert sizes == [32, 4, 4] and sorted(texts) == sorted(f"Title {row}" for row in range(40))
    row = data.train[0]
    number = int(row["text"].split()[1])
    assert row["text_pair"] == f"An abstract, of {number}" and row["label"] == [1, 0, 0, 0, 0, number % 2]
    with pytest.raises(ValueError, match=r"needs --data_dir, a folder with train\.csv"):
        task.load(None)


def test_scores_of_known_predictions():
    logits = np.array([[1.0, -1], [1, 1], [-1, -1], [-1, -1]])
    labels = np.array([[1.0, 0], [0, 1], [0, 1], [0, 0]])
    scores = multi_label(["a", "b"])(EvalPrediction(logits, labels), None)
    assert scores["accuracy: a"] == 0.75 and scores["accuracy: b"] == 0.75 and scores["accuracy"] == 0.75
    assert scores["f1: a"] == scores["f1: b"] == scores["macro_f1"] == scores["micro_f1"] == pytest.approx(2 / 3)
    never = multi_label(["a", "b"], [0.9, 0.9])(EvalPrediction(logits, labels), None)
    assert never["macro_f1"] == 0 and never["accuracy"] == pytest.approx((0.75 + 0.5) / 2)


def test_thresholds_have_the_best_f1():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 3)).round(1)  # some are equal
    labels = (logits + generator.normal(size=(60, 3)) > 0.7).astype(float)
    labels[:, 2] = 0
    found = best_thresholds(logits, labels)
    assert found[2] == 0.5
    for label in range(2):
        own = (logits[:, label, None], labels[:, label, None])
        score = multi_label(["x"], [found[label]])(EvalPrediction(*own), None)["macro_f1"]
        every = [multi_label(["x"], [t])(EvalPrediction(*own), None)["macro_f1"] for t in np.linspace(0, 1, 301)]
        assert score >= max(every) - 1e-9


def test_a_teacher_of_labels_that_are_questions_of_their_own():
    student, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.ones(5, 3)
    p, q = (torch.sigmoid(t.double() / 2) for t in (teacher, student))
    expected = 4 * (F.binary_cross_entropy(q, p) - F.binary_cross_entropy(p, p))
    loss = Distillation(0.5, 2.0).loss(student, teacher, labels)
    assert_agrees(loss, expected)
