"""What a task may not get wrong: it is said before anything is trained, with the task's name."""

from __future__ import annotations

import pytest
from datasets import Dataset

from fastmux.training.tasks.base import Task, TaskData

SEQUENCE = {"text": ["good", "bad"], "label": [1, 0]}
MULTI_LABEL = {"text": ["good", "bad"], "label": [[1, 1], [0, 0]]}
TOKEN = {"tokens": [["a", "b"], ["c"]], "tags": [[0, -100], [1]]}


def made(rows: dict, evaluation: dict | None = None, **attributes) -> Task:
    train = Dataset.from_dict(rows)
    splits = {"validation": rows} if evaluation is None else evaluation
    data = TaskData(train, {name: Dataset.from_dict(own) for name, own in splits.items()}, ["no", "yes"], ["text"])
    return type("Mine", (Task,), {"load": lambda self, data_dir: data, **attributes})()


@pytest.mark.parametrize(("rows", "kind"), [(SEQUENCE, "sequence"), (MULTI_LABEL, "multi_label"), (TOKEN, "token")])
def test_what_is_right_is_let_through(rows, kind):
    data = made(rows, kind=kind).checked(None)
    assert data.train.to_dict() == rows


@pytest.mark.parametrize(
    ("rows", "attributes", "message"),
    [
        (
            SEQUENCE,
            {"kind": "tokens"},
            "Mine.kind is 'tokens', expected one of 'sequence', 'multi_label', 'regression', 'token'",
        ),
        (SEQUENCE, {"metric": "acc"}, "Mine.metric is 'acc', expected one of 'accuracy'"),
        (TOKEN, {"kind": "token", "metric": "acc"}, "Mine.metric is 'acc', expected one of 'f1', 'accuracy'"),
        (SEQUENCE, {"evaluation": {}}, "Mine has no evaluation split"),
        ({"text": ["a"], "labels": [0]}, {}, "Mine: train has the columns text, labels, expected text and label"),
        (SEQUENCE, {"kind": "token"}, "Mine: train has the columns text, label, expected tokens and tags"),
        ({"text": [], "label": []}, {}, "Mine: train has no rows"),
        ({"text": ["a"], "label": ["yes"]}, {}, "Mine: train: row 1 has the label 'yes', expected an id from 0 to 1"),
        ({"text": ["a", "b"], "label": [0, 2]}, {}, "Mine: train: row 2 has the label 2, expected an id from 0 to 1"),
        (
            {"tokens": [["a"], ["b", "c"]], "tags": [[0], [1]]},
            {"kind": "token"},
            "Mine: train: row 2 has 2 tokens and 1 tags, expected one each",
        ),
        (SEQUENCE, {"kind": "multi_label"}, r"Mine: train: row 1 has the label 1, expected 2 numbers, 0 or 1"),
        (
            {"text": ["a"], "label": [[0, 2]]},
            {"kind": "multi_label"},
            r"row 1 has the label \[0, 2\], expected 2 numbers, 0 or 1",
        ),
        (SEQUENCE, {"evaluation": {"test": {"text": ["a"], "label": [7]}}}, "Mine: test: row 1 has the label 7"),
    ],
)
def test_what_is_wrong_is_said(rows, attributes, message):
    with pytest.raises(ValueError, match=message):
        made(rows, **attributes).checked(None)
