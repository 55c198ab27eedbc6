"""The audit compiles what the launchers would launch, and leaves no kernel out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amount import on_request

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


SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E R2, [R4.64] ;
        /*0020*/                   LDG.E R2, [R4.64+0x4] ;
        /*0030*/                   FFMA R3, R2, R2, R3 ;
        /*0040*/               @P0 BRA 0x10 ;
        /*0050*/                   LDG.E R2, [R4.64] ;
        /*0060*/              @!P1 MUFU.EX2 R3, R2 ;
        /*0070*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0080*/               @P1 BRA 0x50 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   BRA 0xa0;
"""


def test_loops_count_as_often_as_they_turn():
    """The first loop takes two turns at a time, the second what is left; what follows the end is padding."""
    pytest.importorskip("triton", reason="the audit needs the package triton")
    from bench.audit.instructions import executed

    assert executed(SASS, [7]) == {"all": 2 + 3 * 4 + 4, "float": 3, "special": 1, "matrix": 64}
    assert executed(SASS, [4]) == {"all": 2 + 2 * 4, "float": 2, "special": 0, "matrix": 0}
    with pytest.raises(ValueError, match="1 deep, expected at most 0"):
        executed(SASS, [])


ASSERTED = """
        /*0000*/                   MOV R0, RZ ;
        /*0010*/               @P1 BRA 0x90 ;
        /*0020*/                   IADD3 R2, R0, 0x8, RZ ;
        /*0030*/                   LDG.E R4, [R6.64] ;
        /*0040*/                   LDG.E R5, [R6.64+0x4] ;
        /*0050*/                   ISETP.GE.U32.AND P0, PT, R0, 0x40, PT ;
        /*0060*/                   IADD3 R0, R2.reuse, 0x8, RZ ;
        /*0070*/              @!P0 BRA 0x20 ;
        /*0080*/                   EXIT ;
        /*0090*/                   CALL.ABS.NOINC R2 ;
        /*00a0*/                   BRA 0xa0 ;
"""


def test_unrolled_loops_turn_less_and_assertions_hold():
    """The loop's counter advances by two turns of 8; the failed assertion, which leads to no exit, does not count."""
    pytest.importorskip("triton", reason="the audit needs the package triton")
    from bench.audit.instructions import executed

    assert executed(ASSERTED, [10], stride=8)["all"] == 3 + 5 * 6
    assert executed(ASSERTED, [10])["all"] == 3 + 10 * 6


def test_every_kernel_says_how_often_its_loops_turn():
    from bench.audit.instructions import LOOPS

    names = {
        path.stem + name
        for path in (ROOT / "kernels").rglob("*.py")
        for name in re.findall(r"^def (_\w*_kernel)\(", path.read_text(), re.MULTILINE)
    }
    assert set(LOOPS) == names


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
    findings = json.loads(output.read_text())["findings"]
    defined = {
        path.stem + line.removeprefix("def ").split("(")[0]
        for path in (ROOT / "kernels").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def _") and line.split("(")[0].endswith("_kernel")
    }
    assert {f["kernel"] for f in findings} == defined, "a kernel is not audited: bench/audit/launches.py"
    for finding in findings:
        assert 0 < finding["occupancy"] <= 1
        assert 0 < finding["registers"] <= 255
        assert finding["problems"] == []
