"""Curves: runs on a tiny encoder and tiny files, one of them killed, and what is computed from their figures."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from killing import in_child
from thoroughness import on_request
from tiny_tasks import write_tasks
from transformers import BertForSequenceClassification

from fastmux.distillation.trainer import states_and_logits
from fastmux.testing import assert_agrees
from fastmux.training import curves
from fastmux.training.fronts import curve_run
from fastmux.training.fronts.candidates import Candidate
from fastmux.training.fronts.curve_figures import Curve, Figures, Stored
from fastmux.training.fronts.curve_verdict import curve_table, sentence
from fastmux.training.fronts.growth import Stop, length_of
from fastmux.training.fronts.law import Estimate, draw_weights, fit
from fastmux.training.fronts.masked import states_everywhere
from fastmux.training.learner import Learner, Order
from fastmux.training.metrics import accuracy
from fastmux.training.run_result import Score

STUDENTS = """
cut:       {joined_layers: []}
narrow:    {joined_layers: [1, 2], ffn_width: 0.5}
n2:        {num_instances: 2, demultiplexer: unbind}
n2-index:  {num_instances: 2, demultiplexer: index, vectors: gaussian}
n2-rows:   {num_instances: 2, joined_layers: [1, 2]}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_tasks(tmp_path_factory.mktemp("curves"))
    (folder / "students.yaml").write_text(STUDENTS)
    lines = ["sentence1\tsentence2\tlabel", "w1 w2\tw3\t0", "w4\tw5 w6\t1"]
    (folder / "pairs.tsv").write_text("\n".join([*lines, ""]))
    return folder


@pytest.fixture
def quick(monkeypatch):
    """No pictures, and few draws."""
    monkeypatch.setattr(curve_run, "plot", lambda *given: None)
    monkeypatch.setattr(curve_run, "Figures", partial(Figures, draws=20))


def arguments(files, output, *more: str, task: str = "sst2", points: str = "16 32 64") -> list[str]:
    given = {"task": task, "data_dir": files, "encoder": files / "encoder", "candidates": files / "students.yaml"}
    given |= {"output_dir": output, "groupings": 2, "max_rate_rows": 16, "per_device_train_batch_size": 8}
    given |= {"precision": "float32", "warm_up": 16, "original_epochs": 2}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*words, "--points", *points.split(), *more]


def points_of(folder) -> dict[str, dict]:
    """What each point of a run says, but for the time that it took."""
    found = {}
    for path in sorted(folder.glob("students/*/seed-*/points/*.json")):
        rows = np.load(path.with_suffix(".npz"))
        record = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        found[str(path.relative_to(folder))] = record | {name: rows[name].tolist() for name in rows}
    return found


def weights_of(folder) -> dict[str, dict[str, torch.Tensor]]:
    return {
        str(path.relative_to(folder)): torch.load(path, weights_only=True)["model"]
        for path in sorted(folder.glob("students/*/seed-*/trunk.pt"))
    }


def same_weights(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name][key]) for name, own in one.items() for key, tensor in own.items()
    )


@pytest.mark.parametrize("task", [pytest.param("sst2", marks=on_request), "conll2003"])
def test_curves_have_every_student_and_every_point(task, files, tmp_path):
    out = tmp_path / "out"
    result = curves.main(arguments(files, out, "--seeds", "0", "1", task=task, points="8 16 32 64"))
    assert [curve["name"] for curve in result["curves"]] == ["cut", "narrow", "n2", "n2-index", "n2-rows"]
    for curve in result["curves"]:
        assert [point["row_updates"] for point in curve["points"]] == [8, 16, 32, 64]
        assert all(point["seeds"] == [0, 1] and len(point["score"]["values"]) == 2 for point in curve["points"])
        last = curve["points"][-1]
        assert last["epochs"] == 1.0 and last["steps"] == 8 and last["passes"] == 64 / curve["num_instances"]
        assert last["flops"] > 0 and last["seconds"] > 0 and curve["rows_per_second"] > 0
        begun = [point for point in curve["points"] if curve["begins"] and point["row_updates"] >= curve["begins"]]
        law = curve["agreement"]
        assert (law is None) == (len(begun) < 4)
        if law is not None:
            assert 0 <= law["floor"]["value"] <= 1 and law["more"] == 640
    assert 0 < result["constant"] < 1
    cut, whole = (next(c for c in result["curves"] if c["name"] == name) for name in ("cut", "n2"))
    assert cut["points"][0]["flops"] < whole["points"][0]["flops"] and not cut["multiplexed"]
    assert {gap["name"] for gap in result["gaps"]} == {"n2", "n2-index", "n2-rows"} and len(result["sentences"]) == 3
    assert json.loads((out / "curves.json").read_text())["sentences"] == result["sentences"]
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "curves_time.png", "curves_passes.png"}
    assert not list(out.glob("students/*/*/branch*"))


def test_a_run_that_is_killed_goes_on_to_the_same_result(files, tmp_path, monkeypatch, quick):
    """In one process, and in several: each is killed within a trunk or a branch, or when a point was scored."""
    students = ("--students", "n2", "n2-rows", "cut")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    curves.main(arguments(files, whole, *students))

    def killed_after(steps: int) -> None:
        step = Learner.advance

        def advance(self, rate):
            nonlocal steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, rate)

        monkeypatch.setattr(Learner, "advance", advance)
        curves.main(arguments(files, parts, *students, "--save_seconds", "0"))

    for steps in (1, 4, 7, 11):
        assert in_child(lambda steps=steps: killed_after(steps)) == signal.SIGKILL
    curves.main(arguments(files, parts, *students, "--save_seconds", "0"))
    assert points_of(parts) == points_of(whole) and len(points_of(whole)) == 9
    assert same_weights(weights_of(parts), weights_of(whole))


def test_a_later_call_goes_on_with_further_points_seeds_and_students(files, tmp_path, quick):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    curves.main(arguments(files, whole, "--seeds", "0", "1", "--students", "cut", "n2"))
    curves.main(arguments(files, parts, "--students", "cut", points="16"))
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("students/*/seed-*/points/*")}
    curves.main(arguments(files, parts, "--students", "cut", "n2", points="16 32 64"))
    curves.main(arguments(files, parts, "--students", "cut", "n2", "--seeds", "0", "1"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert points_of(parts) == points_of(whole) and same_weights(weights_of(parts), weights_of(whole))
    fewer = curves.main(arguments(files, parts, "--students", "cut", points="16"))
    assert fewer["settings"]["points"] == [16, 32, 64], "the command that is said to make the file has all its points"
    with pytest.raises(ValueError, match="--points 24: cut, seed 0, stands at 56 row-updates, past the place"):
        curves.main(arguments(files, parts, "--students", "cut", points="24 64"))
    with pytest.raises(ValueError, match=r"holds work of other settings: learning_rate was 0\.0003, is 0\.001"):
        curves.main(arguments(files, parts, "--learning_rate", "1e-3"))
    elsewhere = shutil.copytree(files, tmp_path / "elsewhere")
    moved = shutil.move(parts, tmp_path / "moved")
    curves.main(arguments(elsewhere, moved, "--students", "cut"))
    assert points_of(moved) == points_of(whole)
    with pytest.raises(ValueError, match="teacher is of another original, or of other rows"):
        curves.main(arguments(elsewhere, moved, "--students", "cut", "--text", str(files / "pairs.tsv")))
    shutil.move(moved, parts)
    (files / "other.yaml").write_text("cut: {joined_layers: [1]}\n")
    with pytest.raises(ValueError, match=r"student\.json is of another cut: joined_layers was"):
        curves.main(arguments(files, parts, "--candidates", str(files / "other.yaml")))


def test_further_text_is_learnt_from_and_what_is_scored_is_not(files, tmp_path, quick):
    scored = (files / "sst2" / "dev.tsv").read_text().splitlines()[1:4]
    (files / "more.txt").write_text("\n".join([*(line.split("\t")[0] for line in scored), "w7 w8 w9", ""]))
    text = ("--text", str(files / "pairs.tsv"), str(files / "more.txt"), "--students", "cut")
    result = curves.main(arguments(files, tmp_path / "out", *text, points="16"))
    assert result["rows"] == {"train": 64, "further text": 3, "evaluation": 32}
    assert result["settings"]["text"] == "pairs.tsv more.txt"


@pytest.mark.parametrize("task", ["sst2", "conll2003"])
def test_the_original_s_states_of_any_text_are_learnt_first(task, files, tmp_path, quick):
    first = ("--first_text", str(files / "more.txt"), "--first_rows", "24", "--students", "n2", "n2-rows", "cut")
    words = [f"w{k} w{k + 1} w{k + 2}" for k in range(3, 23)]
    (files / "more.txt").write_text("\n".join([*words, ""]))
    result = curves.main(arguments(files, tmp_path / "out", *first, task=task, points="40"))
    assert result["rows"]["first text"] == 20 and result["settings"]["first_text"] == "more.txt"
    plain = curves.main(arguments(files, tmp_path / "plain", *first[4:], task=task, points="40"))
    assert [c["points"][0]["row_updates"] for c in result["curves"]] == [40] * 3
    assert not same_weights(weights_of(tmp_path / "out"), weights_of(tmp_path / "plain")) and len(plain["curves"]) == 3
    teacher = np.load(tmp_path / "out" / "teacher-first" / "states.npy")
    assert teacher.shape == (20 * 5, 64)  # of every position


def test_every_student_has_states_at_every_position(files):
    for entry in ({"demultiplexer": "unbind"}, {"joined_layers": (1, 2)}, {"join": "positions", "joined_layers": (1,)}):
        model = Candidate("a", num_instances=2, **entry).make(
            BertForSequenceClassification.from_pretrained(files / "encoder"), "sequence"
        )
        ids = torch.randint(5, 30, (4, 6))
        states = states_everywhere(model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        assert states.shape == (4, 6, 64)
        alone = states_and_logits(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]
        assert_agrees(states[:, :1], alone)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--first_rows", "8"], "--first_text and --first_rows go together"),
        (["--first_rows", "16", "--first_text", "pairs.tsv"], "--first_rows is 16, expected a multiple of a step's 8"),
        (["--first_rows", "9", "--first_text", "pairs.tsv"], "--first_rows is 9, expected a multiple of a step's 8"),
        (["--students", "n3"], "--students 'n3': .* has cut, narrow, n2, n2-index, n2-rows"),
        (
            ["--points", "8", "--first_text", "x.txt", "--first_rows", "8"],
            "--first_rows is 8, expected a multiple of a step's 8 rows, fewer than the first point leaves after",
        ),
        (["--points", "4"], r"--points is \[4\], expected numbers of row-updates of at least a step's 8"),
        (["--seeds", "-1"], r"--seeds is \[-1\], expected integers"),
        (["--per_device_train_batch_size", "9"], "is 9, expected a multiple of num_instances, which is 2 of n2"),
        (["--per_device_train_batch_size", "80", "--points", "800"], "there are 64 rows to learn from, expected"),
        (["--candidates", "levers"], "the encoder has 4 layers"),
        (["--candidates", "labels.yaml"], "a: learn, start, folder and masked_epochs have no curve"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(given, message, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    (files / "labels.yaml").write_text("a: {learn: labels}\n")
    with pytest.raises(ValueError, match=message):
        curves.main(arguments(files, tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


def test_a_point_takes_a_tenth_of_what_the_trunk_had():
    stops = [Stop.at(n, 10) for n in (10, 1100, 11_000)]
    assert stops == [Stop(1, 0), Stop(110, 100), Stop(1100, 1000)]
    assert length_of(stops) == 1000 + 1 + 10 + 100 and length_of(stops[1:], done=40) == 960 + 110
    assert length_of([]) == 0


def test_rows_come_in_another_order_in_each_epoch_and_once_in_each():
    order = Order(np.arange(20) % 7, batch=5, seed=3)
    epochs = [np.concatenate([order.rows(step) for step in range(first, first + 4)]) for first in (0, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2 and list(epochs[0]) != list(epochs[1])
    assert all(np.ptp((np.arange(20) % 7)[order.rows(step)]) < 4 for step in range(8))
    assert list(Order(np.arange(20) % 7, 5, 3).rows(6)) == list(order.rows(6))


def test_a_law_is_found_again_and_knows_when_it_has_no_floor():
    n = np.array([1e3, 3e3, 1e4, 3e4, 1e5])
    for floor, scale, power in ((0.04, 2.0, 0.5), (0.0, 1.0, 0.3), (0.2, 0.0, 1.0)):
        law = fit(n, (floor + scale * n**-power)[None], np.ones((1, 5)))
        assert law.floor[0] == pytest.approx(floor, abs=0.004)
        assert law.at(1e6)[0] == pytest.approx(floor + scale * 1e6**-power, abs=0.004)
    rising = fit(n, np.linspace(0.1, 0.2, 5)[None], np.ones((1, 5)))
    assert rising.scale[0] == 0 and rising.floor[0] == pytest.approx(0.15)
    weights = draw_weights(5, 50, seed=0, distinct=4)
    assert (weights[0] == 1).all() and (weights.sum(1) == 5).all() and ((weights > 0).sum(1) >= 4).all()
    with pytest.raises(ValueError, match="3 points are given, expected at least 4"):
        fit(n[:3], np.ones((1, 3)), np.ones((1, 3)))


def known(wrong: dict[int, float], rows: int = 1000) -> dict[int, dict[int, Stored]]:
    """A student of one seed that is wrong of the first rows, so many of a hundred."""
    points = {}
    for n, share in wrong.items():
        same = (np.arange(rows) >= share * rows).astype(float)
        counts = np.stack([same, np.ones(rows)], 1)
        points[n] = Stored(n, n // 10, 1.0, [same.mean()], [same.mean()], same, counts)
    return {0: points}


def a_curve(name: str, speed: float, figures: Figures, multiplexed: bool) -> Curve:
    speeds = dict.fromkeys(("rows_per_second", "speed_up", "speed_up_forward"), speed)
    instances = 2 if multiplexed else 1
    points = figures.points(name, instances, 1.0, 100)
    laws = {"agreement": figures.law(name, 0), "score": figures.law(name, 1)}
    own = {"name": name, "multiplexed": multiplexed, "num_instances": instances, "parameters": 1, "bf16": False}
    return Curve(**own, **speeds, points=points, begins=figures.begins(name), **laws)


def test_a_gap_is_to_the_best_plain_student_that_is_as_fast():
    n = [1000, 10_000, 100_000, 1_000_000]
    laws = {"slow": (0.01, 9.0), "fast": (0.03, 9.0), "worse": (0.2, 9.0), "mux": (0.13, 12.0), "quick": (0.02, 12.0)}
    stored = {name: known({k: floor + scale * k**-0.5 for k in n}) for name, (floor, scale) in laws.items()}
    figures = Figures(stored, accuracy, "accuracy", draws=100)
    rates = {"slow": 1.0, "fast": 2.0, "worse": 2.1, "mux": 2.0, "quick": 2.0}
    made = {name: a_curve(name, rates[name], figures, name in ("mux", "quick")) for name in laws}
    plain = [made[name] for name in ("slow", "fast", "worse")]
    gap = figures.gap(made["mux"], plain)
    assert (gap.rival, gap.as_fast, gap.row_updates, gap.tenth) == ("fast", True, 1_000_000, 100_000)
    assert gap.behind.value == pytest.approx(0.103, abs=0.002) and gap.behind.low > 0.08
    assert gap.floors.value == pytest.approx(0.1, abs=0.01) and gap.closes is False
    said = sentence(gap, list(made.values()))
    assert "mux (2.00 x) has the original's label on 85.7 % of the rows, 10.4 points" in said
    assert said.endswith("never agree: training does not close the gap.")
    half = 0.0585 + (0.039 - 0.0585) * np.log(5) / np.log(10)  # the rival's after 500,000, between its points
    assert gap.equal_passes.value == pytest.approx(0.143 - half, abs=0.001)
    assert "beside fast after as many passes, of a row each, it is 9.8 points" in said
    closing = figures.gap(made["quick"], plain)
    assert closing.behind.value == pytest.approx(-0.007, abs=0.002) and closing.closes
    assert "ahead of fast (2.00 x)" in sentence(closing, list(made.values()))
    alone = figures.gap(made["mux"], [made["slow"]])
    assert not alone.as_fast and "slow (1.00 x, the fastest plain student)" in sentence(alone, list(made.values()))
    assert figures.gap(made["mux"], []) is None
    unsure = replace(gap, floors=Estimate(0.1, -0.1, 0.2))
    assert unsure.closes is None and "do not tell" in sentence(unsure, list(made.values()))


def test_a_law_is_of_the_points_where_a_student_has_begun_to_learn():
    n = [100, 1000, 10_000, 100_000, 1_000_000, 10_000_000]
    wrong = {"still": [0.5] * 6, "late": [0.5, 0.49, 0.5, 0.3, 0.2, 0.1], "law": [0.5, 0.45, 0.3, 0.2, 0.15, 0.12]}
    stored = {name: known(dict(zip(n, own, strict=True))) for name, own in wrong.items()}
    figures = Figures(stored, accuracy, "accuracy", constant=0.5, draws=50)
    assert [figures.begins(name) for name in wrong] == [None, 100_000, 1000]
    made = {name: a_curve(name, 1.0, figures, name != "law") for name in wrong}
    assert made["still"].agreement is made["late"].agreement is None and made["law"].agreement.floor.value < 0.13
    still, late = (figures.gap(made[name], [made["law"]]) for name in ("still", "late"))
    assert still.closes is late.closes is None
    curves = list(made.values())
    assert sentence(still, curves).endswith("It has not begun to learn: one answer to all rows would agree in as many.")
    assert sentence(late, curves).endswith(
        "The points from 100,000 on, where it begins to learn, are too few for a law."
    )
    assert "| 100,000 | - | - | - |" in curve_table(curves, "accuracy")


def test_of_few_points_there_is_no_law():
    stored = {name: known({1000: 0.3, 10_000: 0.2}) for name in ("a", "b")}
    figures = Figures(stored, accuracy, "accuracy", draws=20)
    one, other = a_curve("a", 1.0, figures, True), a_curve("b", 1.0, figures, False)
    gap = figures.gap(one, [other])
    assert one.agreement is None and gap.closes is None and gap.behind == Estimate(0.0, 0.0, 0.0)
    assert sentence(gap, [one, other]).endswith(
        "it was 0.0 points (0.0 to 0.0) behind; beside b after as many passes, of a row each, it is 3.0 points "
        "(2.4 to 3.5) ahead. The points are too few for a law."
    )


def test_seeds_are_averaged_and_drawn():
    two = known({1000: 0.2}) | {1: known({1000: 0.4})[0]}
    figures = Figures({"a": two}, accuracy, "accuracy", draws=200)
    differs, error = figures.wrong("a")
    assert differs[0, 0] == pytest.approx(0.3) and error[0, 0] == pytest.approx(0.3)
    assert differs.min() < 0.25 and differs.max() > 0.35
    (point,) = figures.points("a", 1, 2.0, 100)
    assert point == replace(point, seeds=[0, 1], flops=2000.0, agreement=Score.of([0.8, 0.6]))
