"""What the audit found: the worst of each kernel, and its section of the page of results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.machine import DATASHEET
from fastmux.training.formatting import table


@dataclass
class Finding:
    """What the compiler made of one launch."""

    kernel: str
    target: str
    dtype: str
    hidden_size: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    occupancy: float
    accesses: list[str]
    problem: str | None


def worst(findings: list[Finding]) -> list[dict]:
    """For each kernel and target: the most registers, stack and shared memory, the least occupancy, all problems."""
    rows: dict[tuple[str, str], dict] = {}
    for f in findings:
        row = rows.setdefault((f.kernel, f.target), {"kernel": f.kernel, "target": f.target, "occupancy": 1.0})
        row["occupancy"] = min(row["occupancy"], f.occupancy)
        for name in ("registers", "stack_bytes", "shared_bytes"):
            row[name] = max(row.get(name, 0), getattr(f, name))
        row.setdefault("problems", []).extend([f"{f.dtype}, {f.hidden_size}: {f.problem}"] if f.problem else [])
    return list(rows.values())


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that ``bench/audit/kernels.py`` wrote."""
    findings = result["findings"]
    targets = list(dict.fromkeys(f["target"] for f in findings))
    yield (
        f"{result['compiled']} kernels compiled for {', '.join(targets)} with triton {result['triton']}, in "
        f"{', '.join(result['dtypes'])}, at d = {', '.join(map(str, result['hidden_sizes']))}: {result['problems']} "
        "with a problem. They were compiled, and never run there. `python bench/audit/kernels.py`."
    )
    rows = []
    for kernel in dict.fromkeys(f["kernel"] for f in findings):
        own = {f["target"]: f for f in findings if f["kernel"] == kernel}
        stack = max(f["stack_bytes"] for f in own.values())
        rows.append({"kernel": kernel, "stack": stack} | {target: own[target]["occupancy"] for target in targets})
    occupied = {target: f"{{{target}:.0%}}" for target in targets}
    yield table(rows, {"lowest occupancy": "`{kernel}`", **occupied, "stack, bytes": "{stack}"})
    if result.get("traffic"):
        yield (
            "Bytes that each variant of a launcher moves under the interpreter, as a multiple of those that it must "
            "move; and its floor, the microseconds that those take at the bandwidth of a GPU's data sheet, for 2^26 "
            "elements, N = 4, in bf16."
        )
        floors = {f"{name}, us": f"{{floor_us[{name}]:.1f}}" for name in DATASHEET}
        yield table(result["traffic"], {"launcher": "`{launcher}`", "moved / minimum": "{ratio:.3f}", **floors})
