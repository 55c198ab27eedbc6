"""What a process took is what it took; every form of a model is measured, and its processes do run."""

from __future__ import annotations

import json
import sys

import classifiers
import numpy as np
import pytest

from bench import first_label

config, tokenizer, models, folders = classifiers.config, classifiers.tokenizer, classifiers.models, classifiers.folders


def test_what_a_process_took_is_its_own_and_that_of_those_it_started():
    whole = np.ones(40 * 2**20)  # what this process holds counts for nothing
    seconds, mebibytes = first_label.cost([sys.executable, "-c", "pass"])
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    work = "import time; held = b'1' * (100 << 20)\nwhile time.process_time() < 0.5: pass"
    more, most = first_label.cost([sys.executable, "-c", busy, work])
    assert len(whole) and mebibytes < 100 < most < 300 and more > seconds + 0.3
    with pytest.raises(OSError, match=r"failed: .*no such thing"):
        first_label.cost([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_every_form_is_measured(folders, tmp_path, monkeypatch):
    commands, exported, output = [], [], tmp_path / "first_label.json"

    def cost(command):
        commands.append(command)
        return float(len(commands)), 10.0

    monkeypatch.setattr(first_label, "cost", cost)
    monkeypatch.setattr(first_label.fastmux, "export", lambda model, folder, precision: exported.append(precision))
    first_label.main([str(folders["plain"]), "--repeats", "2", "--output", str(output)])
    entries = json.loads(output.read_text())["first_labels"]
    assert exported == ["float32", "int8"]
    assert len(commands) == 3 * len(entries) == 18 and len({(e["form"], e["process"]) for e in entries}) == 6
    assert min(entry["seconds"] for entry in entries) > 6, "the first turn does not count"


def test_its_commands_run(folders, tmp_path):
    rows = {}
    for (_, process), call in first_label.calls_of("torch, float32", folders["plain"], tmp_path).items():
        rows[process] = call()
    assert set(rows) == {"Labeller", "predict"} and all(seconds > 0 for seconds, _ in rows.values())
    written = next(tmp_path.glob("*.csv")).read_text()
    assert len(written.splitlines()) == 4
