"""The benchmark of early exit: what a head behind a layer is, what it leaves alone, and what its speed is made of."""

from __future__ import annotations

import argparse

import pytest
import torch
from transformers import BertForTokenClassification

from bench import early_exit
from fastmux.labelling.classifier import Classifier
from fastmux.searching.rows import SearchRows
from fastmux.testing import assert_agrees

OPTIONS = {"steps": 4, "batch": 8, "exits": [1, 2], "cascades": ["cut-2"], "agreements": [0.9], "bf16": False}


@pytest.fixture
def contest(saved_classifier, tmp_path):
    classifier = Classifier.of(str(saved_classifier[0]), None)
    texts = saved_classifier[1].read_text().splitlines()[1:]
    rows = SearchRows.of(texts, None, classifier, 32, 0)
    return early_exit.ExitContest(classifier, rows, argparse.Namespace(**OPTIONS), tmp_path / "work")


def test_a_head_behind_all_layers_but_the_last_is_the_original(contest):
    """No row leaves with another label."""
    model = contest.exit_behind(2)
    ids = torch.randint(5, 45, (4, 7))
    with torch.no_grad():
        assert_agrees(model.double()(input_ids=ids).logits, contest.original.double()(input_ids=ids).logits)
    contest.original.float()
    found = contest.figures(contest.said(model.float()), cost=2.0, behind=1.0, original=3.0)
    assert found["agreement"] == 1.0 and found["speed"] == 1.5
    (one,) = found["behind"]  # a few rows are less sure than all that chose
    assert one["agreement"] == 1.0 and one["going_on"] < 0.1
    assert one["speed"] == pytest.approx(3.0 / (2.0 + one["going_on"]))


def test_rows_that_go_on_cost_what_is_left_and_get_the_originals_label(contest):
    model = contest.exit_behind(1)
    with torch.no_grad():
        model.model.classifier.weight.neg_()  # nearly always wrong, and it must not matter
    found = contest.figures(contest.said(model), cost=1.0, behind=2.0, original=3.0)
    assert found["agreement"] < 0.6
    for one in found["behind"]:
        assert one["agreement"] >= found["agreement"] + 0.5 * (0.9 - found["agreement"])
        assert one["speed"] == pytest.approx(3.0 / (1.0 + 2.0 * one["going_on"]))


def test_only_what_is_behind_the_layer_learns(contest):
    model = contest.exit_behind(1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    learnt = contest.learnt("exit-1", model).state_dict()
    changed = {name for name, t in before.items() if not torch.equal(t, learnt[name])}
    assert changed and all(".layer.1." in name or "pooler" in name or "classifier" in name for name in changed)
    assert len(changed) > 10


def test_a_table_of_exits_and_cascades(saved_classifier, tmp_path, capsys):
    model, rows = saved_classifier
    options = ["--steps", "2", "--batch", "8", "--exits", "1", "--cascades", "cut-2", "--agreements", "0.6", "0.9"]
    (found,) = early_exit.main([f"{model}={rows}:text", *options, "--output", str(tmp_path / "found.json")])
    assert found["task"] == "rows" and set(found["seconds"]) == {"embeddings", "layer", "narrow layer", "head"}
    assert [entry["name"] for entry in found["entries"]] == ["exit 1", "cut-2", "exit 1, were it as good as cut-2"]
    (cut, bound) = ({one["target"]: one for one in entry["behind"]} for entry in found["entries"][1:])
    assert cut and all(bound[target]["speed"] >= one["speed"] for target, one in cut.items())
    assert "x original" in capsys.readouterr().out and (tmp_path / "found.json").is_file()


def test_a_file_that_is_not_there(tmp_path, refusal):
    said = refusal(early_exit.main, [f"{tmp_path}={tmp_path / 'none.tsv'}:text"])
    assert "none.tsv is not there; expected MODEL=ROWS:COLUMN[,COLUMN]" in said


@pytest.mark.parametrize(
    "options, message",
    [
        (["--exits", "1", "2"], r"--exits is 2, expected at most 1, as .*model has 3 layers"),
        (["--cascades", "cut-9"], "--cascades is 'cut-9', expected some of cut-2, "),
        (["--max_length", "600"], r"--max_length is 600, but .*model has room for 512 tokens"),
    ],
)
def test_what_the_model_has_not_is_refused_before_any_contest(options, message, saved_classifier, tmp_path):
    model, rows = saved_classifier
    with pytest.raises(ValueError, match=message):
        early_exit.main([f"{model}={rows}:text", *options, "--output", str(tmp_path / "found.json")])
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("columns", ["", "a,b,c"])
def test_a_row_has_one_text_or_two(columns, saved_classifier, refusal):
    model, rows = saved_classifier
    said = refusal(early_exit.main, [f"{model}={rows}:{columns}", "--agreements", "0.9"])
    assert f"the columns are '{columns}'; expected MODEL=ROWS:COLUMN[,COLUMN]" in said
    assert "98, expected a number above 0, up to 1" in refusal(early_exit.main, ["x=y:z", "--agreements", "98"])


def test_another_kind_of_model_is_refused(saved_classifier, tmp_path):
    model, rows = saved_classifier
    BertForTokenClassification.from_pretrained(model).save_pretrained(model)
    with pytest.raises(ValueError, match=r"is a BertForTokenClassification, expected a classifier of rows"):
        early_exit.main([f"{model}={rows}:text", "--output", str(tmp_path / "found.json")])
