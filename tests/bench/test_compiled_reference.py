"""What `torch.compile` would run on a GPU that is not here is counted as what it is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# As bench.audit.kernels.INDUCTOR, which cannot be read where there is no triton.
pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="the audit needs the package triton"),
    pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="stands on the inside of torch 2.13"),
]


def run(folder: Path, script: str) -> subprocess.CompletedProcess:
    """In a process whose kernels are not the interpreter's, which compiles nothing."""
    path = folder / "script.py"
    path.write_text(script)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, timeout=120)


DOTS = """
import triton
import triton.language as tl
from triton.compiler import ASTSource

from bench.audit.binaries import TARGETS, instructions


@triton.jit
def dots(x_ptr, w_ptr, y_ptr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.full([BLOCK], 0, tl.float32)
    for row in tl.range(0, ROWS, 8):
        total += tl.load(x_ptr + row * 4096 + columns) * tl.load(w_ptr + row * 4096 + columns)
    tl.store(y_ptr + columns, total)


pointers = {"x_ptr": "*fp32", "w_ptr": "*fp32", "y_ptr": "*fp32"}
signature = pointers | {"ROWS": "constexpr", "BLOCK": "constexpr"}
for target in ("sm_80", "sm_90", "sm_100"):
    for turns in (1, 12, 57, 76):
        source = ASTSource(fn=dots, signature=signature, constexprs={(3,): 8 * turns, (4,): 128})
        compiled = triton.compile(source, target=TARGETS[target], options={"num_warps": 4})
        counted = instructions(compiled, 32, [turns][: turns > 1], target, 4096, stride=8)
        # One of each thread's multiply-adds a turn, two loads and no more than what makes their addresses.
        assert counted["float"] == turns, (target, turns, counted)
        assert 3 * turns <= counted["all"] < 8 * turns + 40, (target, turns, counted)
"""


def test_multiply_adds_are_counted_however_a_loop_is_unrolled(tmp_path):
    done = run(tmp_path, DOTS)
    assert done.returncode == 0, done.stderr


HADAMARD = """
import json

import torch

from bench.audit.compiled import fastest, reference_kernels
from bench.audit.predict import DEVICES
from bench.ops.test_hadamard_mux import OP

sizes = {"G": 171, "N": 4, "L": 128, "d": 768}
elements = 171 * 4 * 128 * 768
found = {}
for direction in ("forward", "forward+backward"):
    kernels = reference_kernels(OP, sizes, direction, DEVICES["H100"])
    found[direction] = fastest(kernels, DEVICES["H100"], elements)
assert not torch.cuda.is_available(), "the GPU that there seemed to be is still there"
print(json.dumps(found))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_compiled_hadamard_mux_moves_what_it_must(tmp_path):
    done = run(tmp_path, HADAMARD)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (forward,) = found["forward"]
    assert forward["bytes_per_element"] == pytest.approx(2 * 1.25, rel=0.01)
    counted = forward["instructions"]["sm_90"]
    # A multiply-add for each element, and the scale for each sum of four.
    assert counted["float"] == pytest.approx(1.25)
    assert 2 < counted["all"] < 20
    # The sum, the gradient of the vectors in two stages, and that of the inputs.
    sizes = [kernel["bytes_per_element"] for kernel in found["forward+backward"]]
    assert sizes == pytest.approx([2.5, 2.5, 0, 2.5], abs=0.02)
