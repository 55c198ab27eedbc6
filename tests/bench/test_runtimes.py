"""The benchmark of runtimes: what it calls a leak and an error, and what it leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from thoroughness import on_request

from bench import runtimes
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


@pytest.mark.parametrize("leak", [0.0, 0.5])
def test_a_leak_is_what_other_groups_change(leak):
    draw = np.random.default_rng(0)
    tokens = Tokens.of_rows([draw.integers(1, 1000, 3).tolist() for _ in range(40)])
    assert (runtimes.leak(OfGroups(leak), tokens, 1.0) > 0) == bool(leak)


def test_the_section_says_every_runtime():
    row = {"model": "plain", "runtime": "torch float32", "rows_per_second": 1234.5, "x_torch": 1.0, "x_int8": 0.4}
    row |= {"error": 0.0, "labels": 1.0, "leak": 0.0}
    result = {"encoder": {"num_hidden_layers": 6, "hidden_size": 384}, "weights": "random", "runtimes": [row]}
    result |= {"measured_rows": 872, "repeats": 5, "runtime_versions": {"onnxruntime": "1.32.0"}}
    said = "\n".join(runtimes.section(result))
    assert "872 rows of SST-2" in said and "onnxruntime 1.32.0" in said
    assert "| plain | torch float32 | 1,234 | 1.00 | 0.40 | 0.0000 | 1.0000 | 0 |" in said


@on_request
def test_a_small_run(data_dir, tmp_path):
    output = tmp_path / "out.json"
    options = ["--preset", "tiny", "--num_hidden_layers", "3", "--rows", "24", "--repeats", "1", "--num_instances", "4"]
    rows = runtimes.main(["--data_dir", str(data_dir), "--output", str(output), *options])
    found = {(row["model"], row["runtime"]): row for row in rows}
    assert json.loads(output.read_text())["runtimes"] == rows
    for model in ("plain", "joined, N = 2", "T-MUX, N = 4"):
        assert found[model, "ONNX Runtime int8 by row"]["leak"] == 0 < found[model, "ONNX Runtime dynamic int8"]["leak"]
