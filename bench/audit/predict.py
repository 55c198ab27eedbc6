"""How long the kernels of an op should take on a device, by what the audit counted: to stand beside what is measured.

A kernel takes as long as the slowest of: its bytes at the memory's bandwidth; its instructions, where a multiprocessor
issues one for each of its four schedulers a clock if `BUSY` warps or more are resident, proportionally fewer if less;
of them the float32 operations and special functions at their own units' rates; and `LAUNCH`. Clocks are those of
datasheets. What waits for memory or for other warps is not in it, nor is what L2 moves: predictions are on the fast
side.

The counts (bytes, instructions and operations of every launcher) are those that ``python -m bench.audit.kernels
--output`` wrote to ``bench/results/kernel_audit.json``; a device that has no datasheet here has no predictions.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from fastmux.files import read_json

COUNTED = Path(__file__).resolve().parents[1] / "results" / "kernel_audit.json"


@dataclass(frozen=True)
class Device:
    """A GPU by its datasheet: bytes, float32 operations (without tensor cores) and dense bfloat16 operations of matrix
    products a second, and what a multiprocessor holds."""

    target: str
    bandwidth: float
    flops: float
    matrix_flops: float
    registers: int  # of 32 bits, in one register file; AMD has one for each of 4 SIMDs
    shared: int
    warps: int
    multiprocessors: int
    clock: float


#: Resident warps of a multiprocessor that keep its four schedulers busy: what depends on the instruction before waits
#: for four clocks.
BUSY = 16
#: Seconds between launches in a captured graph.
LAUNCH = 2e-6
#: Special functions a clock and multiprocessor.
SPECIAL = 16

# A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 (a GPU of eight) and Instinct MI300X.
DEVICES = {
    "A100": Device("sm_80", 2.039e12, 19.5e12, 312e12, 65536, 164 << 10, 64, 108, 1.41e9),
    "H100": Device("sm_90", 3.35e12, 67e12, 989e12, 65536, 228 << 10, 64, 132, 1.98e9),
    "H200": Device("sm_90", 4.8e12, 67e12, 989e12, 65536, 228 << 10, 64, 132, 1.98e9),
    "B200": Device("sm_100", 8.0e12, 75e12, 2250e12, 65536, 228 << 10, 64, 148, 1.98e9),
    "MI300X": Device("gfx942", 5.3e12, 163.4e12, 1307e12, 4 * 64 * 512, 64 << 10, 32, 304, 2.1e9),
}

#: Op -> its launchers forward and backward, each with the number of its variant in `bench.audit.launches`. Ops whose
#: work is not in kernels of this project have no entry.
LAUNCHERS = {
    "hadamard_mux": ([("hadamard_mux_forward", 0)], [("hadamard_mux_dx", 0), ("hadamard_mux_dv", 0)]),
    "walsh_hadamard_mux": ([("walsh_hadamard_mux_forward", 0)], [("walsh_hadamard_mux_dx", 0)]),
    "embedding_mux": ([("embedding_mux_forward", 0)], [("embedding_mux_backward", 0)]),
    "instance_embeddings": ([("embedding_mux_forward", 3)], [("embedding_mux_backward", 4)]),
    "pair_norm": ([("pair_norm_forward", 0)], [("pair_norm_backward", 0)]),
    "index_demux": ([("pair_norm_forward", 0)], [("pair_norm_backward", 0)]),
}


def seconds(entry: dict, device: Device, elements: int, width: float = 1.0) -> float:
    """Of a launcher for so many elements G * N * L * d.

    Args:
        entry: of `bench.audit.traffic`, with the ``instructions`` an element where they were counted.
        width: bytes of an element over those of the dtype that was counted.
    """
    return max(LAUNCH, *limits(entry, device, elements, width).values())


def limits(entry: dict, device: Device, elements: int, width: float = 1.0) -> dict[str, float]:
    """Seconds that each of the device's units takes."""
    times = {"memory": width * entry["bytes"] / entry["elements"] * elements / device.bandwidth}
    counted = entry.get("instructions", {}).get(device.target)
    if counted is None:  # operations as the interpreter counts them, erf and exp as one each
        return times | {"float": entry["flops"] / entry["elements"] * elements / device.flops}
    slots = device.multiprocessors * device.clock
    times["issue"] = elements * counted["all"] / (128 * slots * min(1.0, counted["warps"] / BUSY))
    times["float"] = elements * counted["float"] / (device.flops / 2)
    times["special"] = elements * counted["special"] / (SPECIAL * slots)
    times["matrix"] = 2 * elements * counted["matrix"] / device.matrix_flops
    return times


@functools.cache
def _counted() -> dict[str, list[dict]]:
    """Launcher -> its variants."""
    entries: dict[str, list[dict]] = {}
    for entry in read_json(COUNTED)["traffic"] if COUNTED.exists() else []:
        entries.setdefault(entry["launcher"], []).append(entry)
    return entries


def predicted_seconds(
    op: str, direction: str, sizes: dict[str, int], dtype: torch.dtype, device: str, matrix_flops: int = 0
) -> float | None:
    """Of an op in a direction ("forward", "forward+backward") on a device by its name, or None where nothing is known.

    Counted was bfloat16 at N = 4; a float32 element is taken for twice the bytes. ``matrix_flops`` are those that the
    op has PyTorch do beside its kernels.
    """
    known = next((d for key, d in DEVICES.items() if key in device), None)
    forward, backward = LAUNCHERS.get(op, ([], []))
    launchers = [*forward, *(backward if "backward" in direction else [])]
    if known is None or not launchers or any(len(_counted().get(name, [])) <= i for name, i in launchers):
        return None
    elements = math.prod(sizes[letter] for letter in "GNLd")
    kernels = sum(seconds(_counted()[name][i], known, elements, dtype.itemsize / 2) for name, i in launchers)
    return kernels + matrix_flops / known.matrix_flops
