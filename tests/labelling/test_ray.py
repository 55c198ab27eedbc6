"""examples/ray_batch.py on a local Ray: two models, interrupted and resumed."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

import fastmux

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pandas = pytest.importorskip("pandas")

SCRIPT = Path(__file__).parents[2] / "examples" / "ray_batch.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("ray_batch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ray_batch", module)
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)
    ray.init(num_cpus=8, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield module
    ray.shutdown()


def test_two_models_label_every_row_once_also_after_an_interruption(script, folders, texts, tmp_path):
    source, output, log = tmp_path / "rows", tmp_path / "labels", tmp_path / "log"
    source.mkdir()
    log.mkdir()
    rows = [{"id": i, "text": text} for i, text in enumerate([*texts[:38], "", *texts[38:59]])]
    for part in range(4):
        lines = (json.dumps(row) + "\n" for row in rows[15 * part : 15 * (part + 1)])
        (source / f"{part}.jsonl").write_text("".join(lines))
    broken = tmp_path / "broken"
    broken.touch()

    class Watched(script.Label):
        """Fails on one row, once others are written; and says what it was given."""

        def __call__(self, table):
            ids = table["id"].to_pylist()
            if 50 in ids and broken.exists():
                end = time.monotonic() + 60
                while not list(output.glob("*.parquet")) and time.monotonic() < end:
                    time.sleep(0.1)
                time.sleep(2.0)  # for what is written to be marked as done
                raise RuntimeError("broken on purpose")
            (log / f"{broken.exists()}-{ids[0]}").write_text(json.dumps(ids))
            return super().__call__(table)

    given = ["--model", str(folders["tmux"]), "--input", str(source), "--output", str(output)]
    args = script.parse_args([*given, "--copies", "4", "--models", "2", "--batch_size", "15"])
    with pytest.raises(Exception, match="broken on purpose"):
        script.label(args, Watched)
    before = sorted(pandas.read_parquet(output)["id"])
    assert 0 < len(before) < 60
    broken.unlink()
    script.label(args, Watched)

    found = pandas.read_parquet(output).sort_values("id")
    assert found["id"].tolist() == list(range(60)), "every row once"
    again = [row for path in log.glob("False-*") for row in json.loads(path.read_text())]
    assert set(again).isdisjoint(before) and sorted(again + before) == list(range(60))
    expected = fastmux.Labeller(folders["tmux"])([row["text"] for row in rows], copies=4)
    assert found["error"].dropna().tolist() == ["the text is empty"]
    labelled = [answer for answer in expected if "error" not in answer]
    assert found["label"].dropna().tolist() == [answer["label"] for answer in labelled]
    assert found["score"].dropna().tolist() == pytest.approx([answer["score"] for answer in labelled], abs=2e-5)
