"""Read a kernel that was compiled for a GPU: what it takes of a multiprocessor, and what it executes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget

from bench.audit.instructions import executed
from bench.audit.predict import DEVICES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """Share of a multiprocessor's warps that can be resident, by registers, shared memory and warps."""
    device = next(d for d in DEVICES.values() if d.target == target)
    lanes = TARGETS[target].warp_size
    by_registers = device.registers // (-(-registers // 8) * 8 * lanes * warps)
    by_shared = device.shared // (shared + 1024)  # of which the system keeps 1 KiB a program
    # 32: the programs that a multiprocessor takes, however small they are.
    return min(32, device.warps // warps, by_registers, by_shared) * warps / device.warps


def instructions(
    compiled, programs: int, turns: Sequence[int], target: str, elements: int, passes: int = 1, stride: int = 0
) -> dict[str, float]:
    """What is executed for each of ``elements``, and the resident warps of a multiprocessor.

    Args:
        compiled: of `triton.compile`, for ``target``.
        turns, passes, stride: as of `bench.audit.instructions.executed`.
    """
    usage, sass = disassembled(compiled.asm["cubin"])
    threads = programs * compiled.metadata.num_warps * TARGETS[target].warp_size
    counted = executed(sass, turns, passes, stride)
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    resident = occupancy(target, registers, compiled.metadata.shared, compiled.metadata.num_warps)
    device = next(d for d in DEVICES.values() if d.target == target)
    per_element = {kind: round(number * threads / elements, 2) for kind, number in counted.items()}
    return per_element | {"warps": resident * device.warps}


def disassembled(cubin: bytes) -> tuple[str, str]:
    """Resources and instructions, as NVIDIA's ``cuobjdump`` prints them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("-res-usage", "-sass")
        )
    return usage.stdout + usage.stderr, sass.stdout
