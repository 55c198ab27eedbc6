"""The predicted times of our kernels beside those of what `torch.compile` makes of the specification of an op.

Both by the same arithmetic: Inductor writes the kernels that it would run on each GPU (`bench.audit.inductor`), they
are compiled for it, and bytes, executed instructions and resident warps of each make its time (`bench.audit.predict`).
Where Inductor would time several tiles against each other, the fastest is taken. Operations of PyTorch's own between
its kernels take the time of their arguments' bytes or of their matrix products: at least that.

Rows that are looked up in a table, or added to one, count each time, as for our kernels; the table is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from bench.audit.binaries import instructions
from bench.audit.inductor import Step, steps, variants
from bench.audit.predict import BUSY, DEVICES, LAUNCH, LAUNCHERS, Device, limits, seconds
from bench.harness import DIRECTIONS, Op, Sizes
from bench.ops import (
    test_embedding_mux,
    test_hadamard_mux,
    test_index_demux,
    test_instance_embeddings,
    test_pair_norm,
)

#: `walsh_hadamard_mux` is left out: its specification makes matrices as it runs, which tensors without data cannot be.
OPS = [
    m.OP for m in (test_hadamard_mux, test_embedding_mux, test_instance_embeddings, test_pair_norm, test_index_demux)
]
#: Words of a table that rows are looked up in.
VOCABULARY = 1024
#: Ratios of predicted times that are no difference.
TIE = 0.98


def reference_kernels(
    op: Op, sizes: Sizes, direction: str, device: Device, dtype: torch.dtype = torch.bfloat16
) -> list[list[dict]]:
    """What `torch.compile` of the specification of ``op`` would run in a direction ("forward", "forward+backward"):
    of each kernel, for each choice of its tiles, an entry as `bench.audit.predict.seconds` takes them."""
    with torch.device("meta"):
        inputs = op.inputs(**sizes)
    values = [t.to(dtype) if t.is_floating_point() else t for t in inputs.values()]
    elements = math.prod(sizes[letter] for letter in "GNLd")

    def specification(*values):
        return op.reference(**dict(zip(inputs, values, strict=True)))

    kernels = []
    for step in steps(specification, values, device, "backward" in direction):
        entry = {"kernel": step.name, "elements": elements, "bytes": step.bytes + _rows(step, sizes)}
        entry["bytes_per_element"] = entry["bytes"] / elements
        known = dict.fromkeys(("all", "float", "special", "matrix"), 0.0) | {"warps": BUSY}
        known["matrix"] = step.flops / 2 / elements
        tried = [entry | {"instructions": {device.target: known}}]
        # What moves next to nothing takes a launch, whatever it computes.
        if step.autotuner is not None and entry["bytes"] > LAUNCH / 2 * device.bandwidth:
            tried = []
            for v in variants(step, device):
                counted = instructions(v.binary, v.programs, v.turns, device.target, elements, v.passes, v.stride)
                if not counted["warps"]:  # it does not fit
                    continue
                tried.append(entry | {"instructions": {device.target: counted}})
                bounds = [limits(tried[-1], d, elements) for d in DEVICES.values() if d.target == device.target]
                if all(times["memory"] == max(times.values()) for times in bounds):  # nothing can be faster
                    break
        kernels.append(tried)
    return kernels


def fastest(kernels: list[list[dict]], device: Device, elements: int) -> list[dict]:
    """Of each kernel the choice that is predicted to be."""
    return [min(tried, key=lambda entry: seconds(entry, device, elements)) for tried in kernels]


def _rows(step: Step, sizes: Sizes) -> int:
    """Bytes of the rows of the table of words that a step reads or adds to, over those of the table."""
    table = sizes.get("V", 0) * sizes["d"]
    return sum(t.itemsize * max(0, step.elements - table) for t in step.tensors if t.numel() == table)


def beside(counted: list[dict], sizes: Mapping[str, int], targets: Iterable[str]) -> list[dict]:
    """Of each op and direction the predicted times of our kernels and of the compiled reference, by device, with what
    they move and execute for each element, by target; and what bounds the slowest of ours where those are slower.

    Args:
        counted: of `bench.audit.kernels.predict`, at ``sizes``, for these targets among others.
        targets: NVIDIA's: of others no instructions are counted.
    """
    launchers: dict[str, list[dict]] = {}
    for entry in counted:
        launchers.setdefault(entry["launcher"], []).append(entry)
    elements = math.prod(sizes.values())
    rows = []
    for op in OPS:
        own = dict(sizes) | ({"V": VOCABULARY} if "embedding" in op.name else {})
        forward, backward = LAUNCHERS[op.name]
        for direction in DIRECTIONS:
            ours = [launchers[name][i] for name, i in [*forward, *(backward if "backward" in direction else [])]]
            products = op.flops(own, direction) or 0
            row: dict = {"op": op.name, "direction": direction, "ours_us": {}, "compiled_us": {}, "slower": {}}
            row |= {"ours": {}, "compiled": {}}
            for target in targets:
                devices = {name: d for name, d in DEVICES.items() if d.target == target}
                kernels = reference_kernels(op, own, direction, next(iter(devices.values())))
                for name, device in devices.items():
                    theirs = fastest(kernels, device, elements)
                    known = sum(entry["predicted_us"][name] for entry in ours)
                    row["ours_us"][name] = known + 1e6 * products / device.matrix_flops
                    row["compiled_us"][name] = 1e6 * sum(seconds(entry, device, elements) for entry in theirs)
                    if row["compiled_us"][name] < TIE * row["ours_us"][name]:
                        row["slower"][name] = max(
                            (entry["predicted_us"][name], entry["bound"][name]) for entry in ours
                        )[1]
                row["ours"][target] = _totals(ours, target)
                row["compiled"][target] = _totals(theirs, target) | {"kernels": len(theirs)}
            rows.append(row)
    return rows


def _totals(entries: list[dict], target: str) -> dict[str, float]:
    """Bytes and instructions an element of G * N * L * d."""
    return {
        "bytes": round(sum(entry["bytes_per_element"] for entry in entries), 3),
        "instructions": round(sum(entry["instructions"][target]["all"] for entry in entries), 2),
    }


def table(rows: list[dict]) -> str:
    """As text: our time, how many times as long the compiled reference takes, and what both move and execute for each
    element on the first target."""
    devices = list(rows[0]["ours_us"])
    head = f"{'op, direction':40}{'kernels':>8}{'bytes':>14}{'instructions':>16}"
    lines = [head + "".join(f"{name + ' us, x':>16}" for name in devices)]
    for row in rows:
        ours, theirs = (next(iter(row[side].values())) for side in ("ours", "compiled"))
        times = "".join(
            f"{row['ours_us'][name]:>10.1f}{row['compiled_us'][name] / row['ours_us'][name]:>6.2f}" for name in devices
        )
        lost = ", ".join(f"{name} by {bound}" for name, bound in row["slower"].items())
        warning = f"  <- slower on {lost}" if lost else ""
        moved, executed = (f"{ours[what]:.1f} / {theirs[what]:.1f}" for what in ("bytes", "instructions"))
        lines.append(
            f"{row['op'] + ', ' + row['direction']:40}{theirs['kernels']:>8}{moved:>14}{executed:>16}{times}{warning}"
        )
    return "\n".join(lines)
