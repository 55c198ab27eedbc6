"""The audit compiles what the launchers would launch, and leaves no kernel out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from thoroughness import on_request

from bench.audit import findings

ROOT = Path(__file__).resolve().parents[2]


BAD_KERNEL = """
import torch
import triton
import triton.language as tl


@triton.jit
def _wide_kernel(x_ptr, length):
    tl.store(x_ptr + length.to(tl.int64), 0.0)


def launcher(x, length):
    _wide_kernel[(1,)](x, length)
"""
AUDITED = """
import sys
import bad
import torch
from bench.audit import kernels as audit, recording
from bench.audit.launches import Call

recording.calls = lambda dtype, width, g, n, l: [Call(bad, "launcher", (torch.ones(8, dtype=dtype), l), 0)]
assert audit.failing((2, 4, 128), "sm_90", "bf16", 64) == {}
((kernel, reason),) = audit.failing(audit.ONES, "sm_90", "bf16", 64).items()
assert kernel == "bad_wide_kernel", kernel
assert "to" in reason, reason
"""


def environment(**more: str) -> dict[str, str]:
    """Not the interpreter's, which compiles nothing."""
    return {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | more


def test_what_fails_on_an_argument_of_one_is_found(tmp_path):
    pytest.importorskip("triton", reason="the audit needs the package triton")
    (tmp_path / "bad.py").write_text(BAD_KERNEL)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    command = [sys.executable, "-c", AUDITED]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_section_has_a_floor_for_every_launcher_that_was_counted():
    entry = {"launcher": "f", "ratio": 1.05, "floor_us": dict.fromkeys(findings.DATASHEET, 12.34)}
    found = [findings.Finding("f_kernel", "sm_90", "bf16", 8, 9, 16, 0, occupied, [], None) for occupied in (0.5, 0.25)]
    result = {"triton": "3.9.0", "compiled": 2, "problems": 0, "dtypes": ["bf16"], "hidden_sizes": [8]}
    written = "\n".join(findings.section(result | {"findings": findings.worst(found), "traffic": [entry]}))
    assert "| `f_kernel` | 25% | 16 |" in written and "| `f` | 1.050 | " + "12.3 | " * 4 + "12.3 |" in written


def test_every_launch_asks_for_fused_multiply_adds():
    """By default some versions of Triton fuse them and some do not."""
    pytest.importorskip("triton", reason="the audit needs the package triton")
    from bench.audit.recording import launches

    recorded = launches(torch.bfloat16, 64)
    assert recorded and [launch.name for launch in recorded if launch.options.get("enable_fp_fusion") is not True] == []


@on_request
def test_every_kernel_compiles_for_hopper_without_spills(tmp_path):
    pytest.importorskip("triton", reason="the audit needs the package triton")
    output = tmp_path / "audit.json"
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
    command = [sys.executable, "bench/audit/kernels.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["findings"]
    defined = {
        path.stem + line.removeprefix("def ").split("(")[0]
        for path in (ROOT / "kernels").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def _") and line.split("(")[0].endswith("_kernel")
    }
    assert {f["kernel"] for f in found} == defined, "a kernel is not audited: bench/audit/launches.py"
    for finding in found:
        assert 0 < finding["occupancy"] <= 1
        assert 0 < finding["registers"] <= 255
        assert finding["problems"] == []
