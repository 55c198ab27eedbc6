"""Scores over groupings, of slots, and beside another model; reports of several runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from datasets import Dataset
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import f1_score as word_f1
from transformers import EvalPrediction

from fastmux.training.metrics import accuracy, entity_f1
from fastmux.training.report import main as write_report
from fastmux.training.report import read_runs
from fastmux.training.run_result import Difference, RunResult, Score, StageResult, Throughput, VariantResult, of_json
from fastmux.training.scoring import Predicted, difference, score_split
from fastmux.training.tasks import Conll2003Task

ROWS = Dataset.from_dict({"row": list(range(10))})


def predicted(seed: int, right: np.ndarray, batch: int = 8) -> Predicted:
    """Rows in some order, of which those are right that ``right`` says, by place in the split."""
    order = np.random.default_rng(seed).permutation(len(right))
    return Predicted(order, EvalPrediction(np.where(right, 1, 0)[order], np.ones(len(right), int)), 0.5, batch)


def test_slots_are_those_of_the_batches():
    """Every batch begins with a new group: the first slot has places 0, 3, 6 of the first batch and 0 of the second."""
    right = np.arange(10) < 4
    found = [predicted(seed, right) for seed in range(3)]
    scores = score_split(accuracy, "accuracy", ROWS, found, 3)
    assert scores.scores["accuracy"].values == [0.4] * 3 and scores.scores["loss"].mean == 0.5
    for slot, places in enumerate(([0, 3, 6, 8], [1, 4, 7, 9], [2, 5])):
        expected = [float(right[own.order][places].mean()) for own in found]
        assert scores.slots[slot].values == pytest.approx(expected)
    assert scores.counts[:, 0].tolist() == right.astype(float).tolist()
    assert score_split(accuracy, "accuracy", ROWS, found, 1).slots == []


def test_counts_are_means_over_groupings_in_the_splits_order():
    first, second = np.arange(10) < 4, np.arange(10) % 2 == 0
    scores = score_split(accuracy, "accuracy", ROWS, [predicted(0, first), predicted(1, second)], 2)
    assert scores.counts[:, 0].tolist() == ((first + 0.0 + second) / 2).tolist()


def test_the_interval_of_a_difference():
    generator = np.random.default_rng(1)
    own, other = (np.column_stack([generator.random(4000) < p, np.ones(4000)]).astype(float) for p in (0.8, 0.7))

    def score(sums):
        return accuracy.score(sums)["accuracy"]

    found = difference(score, own, other)
    assert found.mean == pytest.approx(own[:, 0].mean() - other[:, 0].mean())
    # The rows are independent: what their spread says, but for the noise of the drawing.
    error = np.std(own[:, 0] - other[:, 0]) / np.sqrt(4000)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.25 * error)
    assert difference(score, own, own) == Difference(0.0, 0.0, 0.0)


def test_entities_are_counted_as_seqeval_counts_them():
    generator, names = np.random.default_rng(0), Conll2003Task.labels
    gold, said = generator.integers(0, len(names), (2, 40, 12))
    said = np.where(generator.random(gold.shape) < 0.7, gold, said)
    scores = entity_f1(names)(EvalPrediction(said, gold), Dataset.from_dict({"missed": [[]] * 40}))
    tags = [[[names[tag] for tag in row] for row in table] for table in (gold, said)]
    for name, seqeval in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert scores[name] == pytest.approx(seqeval(*tags))
    words = [[tag for row in rows for tag in row] for rows in tags]
    assert scores["weighted_f1"] == pytest.approx(word_f1(*words, average="weighted", zero_division=0))


@pytest.fixture
def result() -> RunResult:
    def variant(mean: float, slots: list[Score]) -> VariantResult:
        log = [{"step": step, "eval_accuracy": mean - 0.1 / step} for step in (1, 2, 4)]
        return VariantResult(
            parameters=10,
            groupings=2,
            scores={"validation": {"accuracy": Score.of([mean, mean + 0.01])}},
            slots={"validation": slots},
            thresholds=None,
            retrieval_accuracy_after_warm_up=None,
            retrieval_accuracy=None,
            stages={"task": StageResult(4, 1.0, 0, log)},
            throughput=Throughput(100.0, 90.0, 110.0),
            ratio_to_plain=2.0,
            limit=2.0,
            difference_to_plain={"validation": Difference(-0.05, -0.06, -0.04)} if slots else {},
        )

    slots = [Score.of([0.7, 0.72]), Score.of([0.75, 0.71])]
    settings = {"recipe": {"num_instances": 2, "max_length": 16}, "trainer": {}}
    variants = {"plain": variant(0.8, []), "unbind": variant(0.75, slots)}
    data = {"labels": ["a", "b"], "evaluation_rows": {"validation": 10}}
    return RunResult("mine", "accuracy", {"device": "CPU"}, settings, data, variants, 1.0)


def test_results_are_read_back(result):
    assert of_json(RunResult, json.loads(json.dumps(asdict(result)))) == result


def test_a_report_of_several_runs(result, tmp_path, capsys):
    for n in (2, 4):
        (tmp_path / f"n{n}").mkdir()
        run = replace(result, settings={**result.settings, "recipe": {"num_instances": n, "max_length": 16}})
        (tmp_path / f"n{n}" / "metrics.json").write_text(json.dumps(asdict(run)))
    report = write_report([str(tmp_path / "n2"), str(tmp_path / "n4"), "--output_dir", str(tmp_path / "report")])
    text = report.read_text()
    cells = ["n4", "`unbind`", "4", "validation", "0.7550 ± 0.0071", "-0.0500 (-0.0600 to -0.0400)", "0.7100 to 0.7300"]
    assert f"| {' | '.join(cells)} | - | 100 | 2.00 | 2.00 |" in text
    assert "| n2 | `plain` | 1 | validation |" in text and "![mine](mine.png)" in text
    (task,) = json.loads((tmp_path / "report" / "report.json").read_text())["tasks"]
    assert task["table"] in text
    assert (tmp_path / "report" / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no metrics.json; expected the folder of a finished run of train.py"),
        ("[]", "is not what a run of train.py writes"),
        ('{"task": "mine"}', "is not what a run of train.py writes: TypeError.*'variants'"),
        ("{", "is not what a run of train.py writes: JSONDecodeError"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, text, message):
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs([str(tmp_path / "run")])


def test_a_run_is_not_written_over(result, tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "metrics.json").write_text(json.dumps(asdict(result)))
    with pytest.raises(ValueError, match="holds a run; give another folder"):
        write_report([str(tmp_path), "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="two of the runs are named"):
        read_runs([str(tmp_path), str(tmp_path)])
