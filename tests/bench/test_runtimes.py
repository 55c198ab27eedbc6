"""The benchmark of runtimes: what it calls a leak and an error, and what it leaves."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from thoroughness import on_request

from bench import runtime_peers, runtimes
from fastmux.passes.engine import Engine
from fastmux.passes.plan import Layout
from fastmux.passes.tokens import Tokens


class OfGroups:
    """Answers with the sum of a group's ids, plus ``leak`` times the largest id of the batch."""

    num_instances = num_labels = 2
    layout, per_token, problem_type, pad_token_id, weights = Layout(rows=2), False, "regression", 0, 0

    def __init__(self, leak):
        self.leak = leak

    def start(self, inputs):
        ids = inputs["input_ids"]
        sums = np.repeat(ids.reshape(-1, 2 * ids.shape[1]).sum(1), 2) + self.leak * ids.max()
        return lambda: np.stack([sums, sums], 1).astype(np.float32)

    def ready(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize("leak", [0.0, 0.5])
def test_a_leak_is_what_other_groups_change(leak):
    draw = np.random.default_rng(0)
    tokens = Tokens.of_rows([draw.integers(1, 1000, 3).tolist() for _ in range(40)])
    assert (runtimes.worst_leak(OfGroups(leak), tokens, 1.0) > 0) == bool(leak)


def test_the_section_says_every_runtime():
    row = {"model": "plain", "runtime": "torch float32", "rows_per_second": 1234.5, "x_torch": 1.0, "x_int8": 0.4}
    way = row | {"runtime": "torch float32, one row at a time"}
    row |= {"error": 0.0, "labels": 1.0, "leak": 0.0}
    result = {"encoder": {"num_hidden_layers": 6, "hidden_size": 384}, "weights": "random", "runtimes": [row, way]}
    result |= {"measured_rows": 872, "repeats": 5, "runtime_versions": {"onnxruntime": "1.32.0"}}
    said = "\n".join(runtimes.section(result | {"floors": {"tokenising": 9876.5}}))
    assert "872 rows of SST-2" in said and "onnxruntime 1.32.0" in said and "tokenising 9,876" in said
    assert "| plain | torch float32 | 1,234 | 1.00 | 0.40 | 0.0000 | 1.0000 | 0 |" in said
    assert "| plain | torch float32, one row at a time | 1,234 | 1.00 | 0.40 | - | - | - |" in said


@pytest.mark.parametrize(("way", "widths"), [("one row at a time", [3, 50, 7]), ("unsorted, padded to 128", [128])])
def test_ways_to_batch_rows(way, widths):
    seen = []

    class Seen(OfGroups):
        num_instances, layout = 1, Layout()

        def start(self, inputs):
            seen.append(inputs["input_ids"].shape[1])
            return lambda: np.zeros((len(inputs["input_ids"]), 2), np.float32)

    tokens = Tokens.of_rows([[1] * length for length in (3, 50, 7)])
    runtime, plan = runtime_peers.WAYS[way](Seen(0), tokens.lengths)
    Engine(runtime, 1).run(tokens, plan)
    assert seen == widths


@pytest.mark.parametrize("given", ["optimum", "optimum=", "optimum=nowhere/model.onnx"])
def test_a_file_of_another_exporter_that_is_not_there(given, capsys):
    with pytest.raises(SystemExit):
        runtimes.main(["--data_dir", "nowhere", "--onnx", given])
    said = capsys.readouterr().err
    assert "argument --onnx: 'optimum' has no file" in said and "expected NAME=FILE" in said


@on_request
def test_a_small_run(data_dir, tmp_path):
    output = tmp_path / "out.json"
    options = ["--preset", "tiny", "--num_hidden_layers", "3", "--rows", "24", "--repeats", "1", "--num_instances", "4"]
    rows = runtimes.main(["--data_dir", str(data_dir), "--output", str(output), *options])
    found = {(row["model"], row["runtime"]): row for row in rows}
    assert json.loads(output.read_text())["runtimes"] == rows
    assert found["plain", "ONNX Runtime float32, exported by torch"]["error"] < 1e-3
    for model in ("plain", "joined, N = 2", "T-MUX, N = 4"):
        assert found[model, "ONNX Runtime int8 by row"]["leak"] == 0 < found[model, "ONNX Runtime dynamic int8"]["leak"]
