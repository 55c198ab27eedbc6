"""How long the kernels of an op should take on a device, by what the audit counted: to stand beside what is measured.

The counts (bytes and operations of every launcher) are those that ``python -m bench.audit.kernels --output`` wrote to
``bench/results/kernel_audit.json``; a device that has no datasheet here has no predictions.
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


# A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 (a GPU of eight) and Instinct MI300X.
DEVICES = {
    "A100": Device("sm_80", 2.039e12, 19.5e12, 312e12, 65536, 164 << 10, 64),
    "H100": Device("sm_90", 3.35e12, 67e12, 989e12, 65536, 228 << 10, 64),
    "H200": Device("sm_90", 4.8e12, 67e12, 989e12, 65536, 228 << 10, 64),
    "B200": Device("sm_100", 8.0e12, 75e12, 2250e12, 65536, 228 << 10, 64),
    "MI300X": Device("gfx942", 5.3e12, 163.4e12, 1307e12, 4 * 64 * 512, 64 << 10, 32),
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
    """Of a launcher for so many elements G * N * L * d: the slower of the bytes moved and the operations done.

    Args:
        entry: of `bench.audit.traffic`.
        width: bytes of an element over those of the dtype that was counted.
    """
    scale = elements / entry["elements"]
    return scale * max(width * entry["bytes"] / device.bandwidth, entry["flops"] / device.flops)


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
