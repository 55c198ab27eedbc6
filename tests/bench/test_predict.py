"""Predicted times are those of the slowest of bytes, instructions and launches."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from bench.audit import predict

pytest.importorskip("triton", reason="predictions stand on the kernels' launchers")


def test_predictions_stand_on_launchers_that_there_are():
    from bench.audit.launches import calls

    counts = Counter(call.launcher for call in calls(torch.float32, 64, 1, 1, 1))
    for op, directions in predict.LAUNCHERS.items():
        assert all(i < counts[launcher] for launchers in directions for launcher, i in launchers), op


def test_prediction_is_the_slowest_of_bytes_instructions_and_launch(monkeypatch):
    entry = {"elements": 100, "bytes": 300, "flops": 200}
    monkeypatch.setattr(predict, "_counted", lambda: {"hadamard_mux_forward": [entry]})
    monkeypatch.setattr(predict, "LAUNCH", 0.0)
    sizes = {"G": 1, "N": 10, "L": 10, "d": 10}  # ten times what was counted

    def of(name, **more):
        return predict.predicted_seconds("hadamard_mux", "forward", sizes, torch.bfloat16, name, **more)

    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(3000 / 3.35e12)
    assert of("NVIDIA H100 80GB HBM3", matrix_flops=989e3) == pytest.approx(3000 / 3.35e12 + 1e-9)
    entry["flops"] = 6700
    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(1e-9)
    assert of("Voodoo2") is None
    # Where instructions were counted, they stand for the operations; half of the warps issue half as many.
    counted = {"all": 100.0, "float": 50.0, "special": 0.0, "matrix": 0.0, "warps": predict.BUSY}
    entry["instructions"] = {"sm_90": counted}
    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(1000 * 100 / (128 * 132 * 1.98e9))
    counted["warps"] = predict.BUSY // 2
    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(2000 * 100 / (128 * 132 * 1.98e9))
    counted["special"] = 100.0
    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(1000 * 100 / (16 * 132 * 1.98e9))
    monkeypatch.setattr(predict, "LAUNCH", 1.0)
    assert of("NVIDIA H100 80GB HBM3") == 1.0
