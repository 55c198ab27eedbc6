"""`train.py` on files of one's own, end to end: numbers, lists of labels and tags come out as columns of `predict`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import fastmux
from fastmux.training.arguments import parse
from fastmux.training.train import main

SMALL = "--hidden_size 16 --num_heads 2 --num_layers 2 --intermediate_size 16 --max_length 24 --vocab_size 300"
SMALL += " --task_rows 4 --retrieval_rows 4 --groupings 1 --throughput_seconds 0.01 --use_cpu --disable_tqdm true"
SMALL += " --max_steps 3 --variants plain unbind joined --joined_row_layers 1 --num_instances 2"
TOPICS = ("art", "law", "sport")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("fastmux.training.report.plot", lambda *_: None)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(folder: Path, rows: list[dict], *options: str):
    """Plain, multiplexed and joined models of a few steps."""
    files = [write(folder / f"{split}.jsonl", rows) for split in ("train", "dev")]
    return main(
        [
            *("--train_file", files[0], "--validation_file", files[1], "--output_dir", str(folder / "run")),
            *(*SMALL.split(), *options),
        ]
    )


def predicted(folder: Path, variant: str, rows: list, **options) -> list[dict]:
    model = str(folder / "run" / variant / "task" / "model")
    return list(fastmux.predict(model, rows, disable_tqdm=True, **options).dataset)


def test_measurements(tmp_path, capsys):
    rows = [{"text": f"a film of {row % 5} stars", "label": row % 5 + 0.25 * (row % 2)} for row in range(32)]
    result = run(tmp_path, rows, "--problem_type", "regression")
    assert "'label' has mean 2.031 and standard deviation" in capsys.readouterr().out
    assert result.metric == "r2" and result.data["labels"] == ["label"]
    for name, found in result.variants.items():
        scores = found.scores["validation"]
        assert {"r2", "pearson", "spearman", "rmse"} <= set(scores) and scores["r2"].mean <= 1
        # The loss that the Trainer evaluates is the squared error itself; a multiplexed model's has retrieval in it.
        if name != "unbind":
            assert scores["loss"].mean == pytest.approx(scores["rmse"].mean ** 2, rel=1e-3)
        config = json.loads((tmp_path / "run" / name / "task/model/config.json").read_text())
        config = config.get("backbone_config", config) if name == "joined" else config
        assert config["problem_type"] == "regression" and list(config["id2label"].values()) == ["label"]
        answers = predicted(tmp_path, name, [{"text": row["text"]} for row in rows[:5]])
        assert all(list(row) == ["text", "score"] and math.isfinite(row["score"]) for row in answers)
    assert "validation" in result.variants["unbind"].difference_to_plain


def test_lists_of_labels(tmp_path):
    rows = [
        {"text": f"of {' and '.join(own)} in number {row}", "label": own[::-1] + own[:1]}
        for row in range(24)
        for own in [[topic for place, topic in enumerate(TOPICS) if row >> place & 1]]
    ]
    result = run(tmp_path, rows, "--problem_type", "multi_label_classification")
    assert result.data["labels"] == list(TOPICS)
    for name, found in result.variants.items():
        assert {f"f1: {topic}" for topic in TOPICS} <= set(found.scores["validation"])
        answers = predicted(tmp_path, name, [{"text": row["text"]} for row in rows[:5]], all_scores=True)
        for row in answers:
            assert list(row) == ["text", "labels", "scores"] and set(row["scores"]) == set(TOPICS)
            assert set(row["labels"]) == {topic for topic, score in row["scores"].items() if score > 0.5}


def test_tags(tmp_path):
    names = {"Ann": "PER", "Bob": "PER", "Rome": "LOC"}
    sentences = [["Ann", "went", "to", "Rome"], ["Bob", "sleeps"], ["Rome", "burns", "Ann"]] * 8
    rows = [{"words": words, "ner": [names.get(word, "O") for word in words]} for words in sentences]
    tokens = ("--tokens_column", "words", "--tags_column", "ner", "--gradient_accumulation_steps", "2")
    with pytest.raises(ValueError, match=r"train\.jsonl: the tags 'LOC', 'PER' do not say where an entity begins"):
        run(tmp_path, rows, *tokens)
    assert not (tmp_path / "run").exists()
    result = run(tmp_path, rows, *tokens, "--tag_scheme", "types")
    assert result.metric == "f1" and result.data["labels"] == ["O", "LOC", "PER"]
    for name, found in result.variants.items():
        assert 0 <= found.scores["validation"]["f1"].mean <= 1
        (row,) = predicted(tmp_path, name, [{"words": ["Ann", "in", "Rome"]}], column="words")
        assert len(row["tags"]) == 3 and set(row["tags"]) <= {"O", "LOC", "PER"}


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (["a", "b"] * 4, ["a", math.nan], r"dev\.jsonl: line 2: not JSON: NaN"),
        (["a", "b"] * 4, ["a", "c"], r"dev\.jsonl: line 2: 'label' must be one of \['a', 'b'\], got 'c'"),
        (["a", ["b"]] * 4, ["a"], r"train\.jsonl: line 2: 'label' holds a list"),
        (
            [0.5 + row for row in range(8)],
            [1],
            r"train\.jsonl: 'label' has 8 different numbers, 0.5 among them, in 8 rows",
        ),
    ],
)
def test_bad_labels_are_refused_before_anything_is_written(tmp_path, train, dev, message):
    for split, labels in (("train", train), ("dev", dev)):
        write(tmp_path / f"{split}.jsonl", [{"text": "a film", "label": label} for label in labels])
    files = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "dev.jsonl")]
    with pytest.raises(ValueError, match=message):
        main([*files, *SMALL.split(), "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tags_column", "ner", "--label_column", "x"], "--label_column has no place with files of tokens and tags"),
        (["--tags_column", "ner", "--problem_type", "regression"], "--problem_type has no place with files of tokens"),
        (["--tag_scheme", "words"], "--tag_scheme has no place with files of texts, unless --tags_column is given"),
        (["--label_column", "a", "b", "--problem_type", "regression"], "--label_column names 2 columns"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parse(["--train_file", "a.jsonl", "--validation_file", "b.jsonl", *options])


@pytest.mark.parametrize("option", ["--problem_type", "--tags_column", "--tag_scheme", "--tokens_column"])
def test_options_of_files_need_files(option):
    value = {"--problem_type": "regression", "--tag_scheme": "types"}.get(option, "x")
    with pytest.raises(ValueError, match=f"{option} needs --train_file"):
        parse([option, value])
