"""The race: the better half goes on, from where it stopped, whatever becomes of the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from thoroughness import on_request
from tqdm.auto import tqdm
from transformers import TrainerCallback

from fastmux.distillation.distil import DistillationTrainer
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import compute_teacher_outputs
from fastmux.searching.levers import Source, candidates_for
from fastmux.searching.plan import make_plan
from fastmux.searching.racer import Race

NAMES = ["cut-2", "cut-1", "positions-2x1", "positions-4x1"]


@pytest.fixture
def race_in(original, tokenizer, texts, tmp_path):
    """Makes a race in a folder; ``worths`` gives each candidate's worth by its steps."""
    rows = Dataset.from_dict({"input_ids": tokenizer(texts[:64])["input_ids"]})
    rows = rows.add_column("length", [len(ids) for ids in rows["input_ids"]])
    teacher = compute_teacher_outputs(original, tokenizer, rows, tmp_path / "teacher", fingerprint="", first_only=True)
    source = Source(original, rows, tokenizer)
    made = {candidate.name: candidate for candidate in candidates_for(original.config)}
    settings = ConversionSettings(per_device_train_batch_size=16)
    plan = make_plan(NAMES, dict.fromkeys(NAMES, 1.0), 1.0, max_steps=8)

    def race(folder, worths) -> Race:
        def judge(name, model):
            worth = worths[name].pop(0)
            return worth, worth

        return Race(plan, lambda name: made[name].make(source), judge, tokenizer, rows, teacher, settings, folder)

    return race


def run(race: Race) -> None:
    with tqdm(total=1.0, disable=True) as bar:
        race.run(bar)


def test_the_better_half_goes_on_from_where_it_stopped(race_in, tmp_path, monkeypatch):
    steps = []

    class Counting(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    train = DistillationTrainer.train
    monkeypatch.setattr(
        DistillationTrainer, "train", lambda self, **k: (self.add_callback(Counting()), train(self, **k))[1]
    )
    worths = {"cut-2": [0.5], "cut-1": [0.8, 0.7], "positions-2x1": [0.9, 0.6], "positions-4x1": [0.1]}
    race = race_in(tmp_path / "race", worths)
    run(race)
    assert steps == [*[1, 2, 3, 4] * 4, *[5, 6, 7, 8] * 2]
    assert [s.name for s in race.ranked()] == ["cut-1", "positions-2x1", "cut-2", "positions-4x1"]
    assert race.ranked()[0].history == [(4, 0.8, 0.8), (8, 0.7, 0.7)]
    assert race.load("cut-1").config.backbone_config.num_hidden_layers == 1
    assert not list((tmp_path / "race" / "cut-2").rglob("optimizer.pt")), "moments of a candidate that is out"


def test_a_race_goes_on_and_takes_the_same_turns(race_in, tmp_path, monkeypatch):
    """After the interruption, worths are known of later rungs, too: they must not change who ran in earlier ones."""
    whole = {"cut-2": [0.5], "cut-1": [0.8, 0.1], "positions-2x1": [0.9, 0.6], "positions-4x1": [0.1]}
    folder = tmp_path / "race"
    first = race_in(folder, whole)
    learn, begun = Race._learn, []

    def interrupted(self, name, *args):
        begun.append(name)
        if len(begun) == 6:  # the second candidate of the second rung
            raise KeyboardInterrupt
        learn(self, name, *args)

    monkeypatch.setattr(Race, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    assert begun[4:] == ["positions-2x1", "cut-1"]
    monkeypatch.setattr(Race, "_learn", lambda self, name, *args: (begun.append(name), learn(self, name, *args)))
    again = race_in(folder, {"cut-1": [0.1]})
    run(again)
    assert begun[6:] == ["cut-1"]
    assert {name: [worth for *_, worth in s.history] for name, s in again.standings.items()} == {
        "cut-2": [0.5],
        "cut-1": [0.8, 0.1],
        "positions-2x1": [0.9, 0.6],
        "positions-4x1": [0.1],
    }


@pytest.mark.parametrize(("slower", "ran"), [(1.0, [4, 2]), (1.5, [3, 1]), (9.0, [1, 1])])
def test_on_a_slower_machine_fewer_run_and_the_best_makes_all_its_steps(race_in, tmp_path, monkeypatch, slower, ran):
    """Rounds take as long as the ones before them did, whatever was planned; the best so far goes to the end."""
    now = [0.0]
    monkeypatch.setattr("fastmux.searching.racer.time.monotonic", lambda: now[0])
    turns = []

    def learn(self, name, folder, steps, bar):
        made = self.standings[name].steps
        turns.append((name, steps))
        now[0] += slower * (steps - made) * self.plan.step_seconds[name]

    monkeypatch.setattr(Race, "_learn", learn)
    monkeypatch.setattr(Race, "_read", lambda self, name, steps: None)
    race = race_in(tmp_path / "race", {name: [0.5 + 0.1 * k, 0.9] for k, name in enumerate(NAMES)})
    race.deadline = 1.1 * race.plan.seconds()
    run(race)
    assert [sum(steps == made for _, made in turns) for steps in (4, 8)] == ran
    assert race.ranked()[0].steps == race.plan.steps
    needed = slower * race.plan.seconds_of(NAMES[0], 0, race.plan.rungs)
    assert now[0] <= max(race.deadline, needed), "it is over in time, or as soon as one candidate can be"


_KILLED = """
import sys
from transformers import TrainerCallback
import fastmux
from fastmux.distillation import distil as module
from fastmux.passes.timer import Rate
from fastmux.searching import measure, run
run.why_not_exported = lambda device, precision: "not in this test"
every = run.candidates_for
run.candidates_for = lambda config, to: [c for c in every(config, to) if c.name in ("cut-2", "cut-1", "positions-2x1")]
# Speeds of so small models are chance.
run.rates = measure.rates = lambda calls, rows, **options: {
    name: Rate(*[50.0 if name == "forward" else 100.0 + 100 * k] * 3) for k, name in enumerate(calls)
}

class Told(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", flush=True)

train = module.DistillationTrainer.train
def told(self, **kwargs):
    self.add_callback(Told())
    return train(self, **kwargs)
module.DistillationTrainer.train = told
model, text, output_dir = sys.argv[1:]
fastmux.search(model, fastmux.read_texts([text]), output_dir, speedup=1.5, max_steps=8)
"""


@on_request
@pytest.mark.parametrize("kind", ["saved", "saved_embedder"])
def test_a_killed_search_makes_the_same_choice(kind, texts, tmp_path, request):
    saved = request.getfixturevalue(kind)
    (tmp_path / "text.txt").write_text("\n".join(texts))

    def steps(folder, kill_after=None) -> int:
        command = [sys.executable, "-c", _KILLED, str(saved), str(tmp_path / "text.txt"), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        count = 0
        for line in process.stdout:
            count += line.startswith("step")
            if count == kill_after:
                os.kill(process.pid, signal.SIGKILL)
                break
        error = process.stderr.read()
        assert process.wait() == (0 if kill_after is None else -signal.SIGKILL), error
        return count

    whole = steps(tmp_path / "whole")
    steps(tmp_path / "killed", kill_after=whole - 6)
    assert not (tmp_path / "killed" / "config.json").exists(), "half a search looks like a whole one"
    assert 1 <= steps(tmp_path / "killed") < whole, "it began anew"
    found = [json.loads((tmp_path / name / "search.json").read_text()) for name in ("whole", "killed")]
    histories = [{name: np.array(history)[:, 1] for name, history in one["history"].items()} for one in found]
    assert histories[0].keys() == histories[1].keys()
    for name, expected in histories[0].items():
        assert histories[1][name] == pytest.approx(expected, abs=0.02)  # rounding, after a start from a checkpoint
    assert found[0]["finished"] and found[1]["finished"]
    assert found[0]["chosen"]["name"] == found[1]["chosen"]["name"]
