"""The figures of starting a program are there, in order."""

from __future__ import annotations

import json

from bench import loading


def test_loading(tmp_path, monkeypatch):
    """The figures are there, in order, and the slower statement is the slower one."""
    monkeypatch.setattr(loading, "IMPORTS", {"fast": "pass", "slow": "import time; time.sleep(0.2)"})
    output = tmp_path / "loading.json"
    loading.main(["--repeats", "1", "--num_hidden_layers", "1", "--output", str(output)])
    report = json.loads(output.read_text())
    assert report["imports"]["slow"] > 0.2 > report["imports"]["fast"] and report["num_hidden_layers"] == 1
    assert len(report["loading"]) == 3 and all(seconds > 0 for seconds in report["loading"].values())
