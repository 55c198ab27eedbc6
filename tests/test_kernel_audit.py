"""The audit compiles what the launchers would launch, and leaves no kernel out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_kernel_compiles_for_hopper_without_spills(tmp_path):
    pytest.importorskip("triton", reason="the audit needs the package triton")
    output = tmp_path / "audit.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    options = [
        "--targets",
        "sm_90",
        "--hidden_sizes",
        "768",
        "--dtypes",
        "bf16",
        "--skip_traffic",
        "--output",
        str(output),
    ]
    command = [sys.executable, "bench/kernel_audit.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(output.read_text())["findings"]
    defined = {
        path.stem + line.removeprefix("def ").split("(")[0]
        for path in (ROOT / "kernels").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def _") and line.split("(")[0].endswith("_kernel")
    }
    assert {f["kernel"] for f in findings} == defined, "a kernel is not audited"
    for finding in findings:
        assert 0 < finding["occupancy"] <= 1
        assert 0 < finding["registers"] <= 255 and finding["stack_bytes"] == 0
        assert any("128" in access for access in finding["accesses"])
