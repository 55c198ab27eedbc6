"""Compile every Triton kernel, as its launcher would launch it, for GPUs that are not here, and read what came out.

    python bench/audit/kernels.py                       # sm_80, sm_90, sm_100 and gfx942; needs no GPU
    python bench/audit/kernels.py --targets sm_90 --hidden_sizes 768

For each kernel, dtype and width: registers, stack (spills), shared memory and the width of global loads and stores.
Exit status 1 if a kernel spills, has no access of 16 bytes a thread or multiplies matrices without tensor cores (these
two are read from NVIDIA's instructions only), does not compile for one group, instance, position or feature, for 20
features or in float64 (on the first target alone), or moves more than 1.1 times the bytes that it must.

Bytes are counted by `bench.audit.traffic`, under the interpreter, instructions by `bench.audit.instructions`, in what
was compiled as it would be launched for 2^26 elements G * N * L * d with N = 4, L = 128, d = 768 in bf16. Both make the
predicted times (`bench.audit.predict`), beside them what of its floor, the bytes that must move, a kernel reaches, and
the times of what `torch.compile` makes of the same op's specification (`bench.audit.compiled`): predictions, not
measurements.

The launchers of `fastmux.kernels` are run on small CPU tensors with their kernels replaced by recorders: what is
compiled is the code that ships, with the tiles, warps and argument types that it would be launched with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined; the interpreter compiles nothing

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.audit.binaries import TARGETS, disassembled, instructions, occupancy
from bench.audit.instructions import turns
from bench.audit.launches import calls
from bench.audit.predict import DEVICES, limits, seconds
from bench.audit.recording import Launch, launches, record
from fastmux.files import write_json

#: Bytes of stack that are no spill to mend: ptxas moves a value or two of a thread there, outside of the loops, where
#: that lets one more program onto a multiprocessor. More is a tile that is too large.
TOLERATED_STACK = 32
#: Kernels whose work is matrix products.
MATRIX_KERNELS = ("walsh_hadamard", "pair_norm_head")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}


#: G, N, L: Triton makes a constant of an argument of 1, and what a scalar can do may not compile on one.
USUAL, ONES = (2, 4, 128), (1, 1, 1)
REPORTED = (171, 4, 128)  # G, N, L of predicted times
REPORTED_WIDTH = 768
#: Multiprocessors that such launches are planned for.
MULTIPROCESSORS = 132
TRAFFIC_LIMIT = 1.1
#: The PyTorch whose Inductor `bench.audit.inductor` knows.
INDUCTOR = "2.13."
_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int8: "*i8",
}


@dataclass
class Finding:
    """What the compiler made of one launch."""

    kernel: str
    target: str
    dtype: str
    hidden_size: int
    registers: int | None
    stack_bytes: int | None
    shared_bytes: int
    occupancy: float
    accesses: list[str]
    problem: str | None


def compile_for(launch: Launch, target: GPUTarget):
    """Compile a recorded launch as Triton would at run time: same types, same divisibility hints, same constants."""
    signature, constants, hints = {}, {}, {}
    for position, name in enumerate(launch.kernel.arg_names):
        value = launch.values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            hints[(position,)] = [["tt.divisibility", 16]]  # as from PyTorch's allocator
        elif isinstance(value, int) and not isinstance(value, bool) and value != 1 and not name.isupper():
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                hints[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name], constants[(position,)] = "constexpr", value
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=hints)
    known = ("num_warps", "num_stages", "maxnreg")[: 2 if target.backend == "hip" else 3]
    options = {k: v for k, v in launch.options.items() if k in known}
    return triton.compile(source, target=target, options=options)


def inspect(launch: Launch, target_name: str, dtype: str, width: int) -> Finding:
    """Compile one launch for one target and read registers, spills and access widths."""
    compiled = compile_for(launch, TARGETS[target_name])
    registers = stack = problem = None
    accesses: list[str] = []
    if "cubin" in compiled.asm:
        usage, sass = disassembled(compiled.asm["cubin"])
        registers, stack = (int(v) for v in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        accesses = sorted(set(re.findall(r"(?:LDG|LDGSTS|STG)\.E[.\w]*", sass)))
        tensor_cores = re.search(r"\b(?:HMMA|HGMMA|UTCHMMA)", sass) is not None or dtype == "fp64"
        if not any("128" in a for a in accesses):
            problem = "no access of 16 bytes"
        elif launch.name.startswith(MATRIX_KERNELS) and not tensor_cores:
            problem = "no tensor-core instruction"
    else:
        text = compiled.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s*(\d+)", text)[1])
        stack = int(re.search(r"\.vgpr_spill_count:\s*(\d+)", text)[1]) * 4
        accesses = sorted(set(re.findall(r"(?:global|buffer)_(?:load|store)_\w+", text)))
    if stack > TOLERATED_STACK and dtype != "fp64":
        problem = f"spills {stack} bytes"
    shared = compiled.metadata.shared
    occupied = occupancy(target_name, registers, shared, compiled.metadata.num_warps)
    return Finding(launch.name, target_name, dtype, width, registers, stack, shared, occupied, accesses, problem)


def traffic() -> list[dict]:
    """What `bench.audit.traffic` counts: in a process of its own, whose kernels are defined for the interpreter."""
    command = [sys.executable, "-m", "bench.audit.traffic"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bench.audit.traffic failed:\n{done.stderr}")
    return json.loads(done.stdout)


def predict(counted: list[dict], targets: list[str]) -> None:
    """Adds to what was counted of each call its instructions an element, by target, and the predicted times."""
    with torch.device("meta"):
        listed = calls(torch.bfloat16, REPORTED_WIDTH, *REPORTED)
        recorded = [
            record(call.module, [(call.launcher, call.arguments)], multiprocessors=MULTIPROCESSORS)[0]
            for call in listed
        ]
    elements = math.prod(REPORTED) * REPORTED_WIDTH
    for entry, call, launch in zip(counted, listed, recorded, strict=True):
        entry["ratio"] = entry["bytes"] / entry["minimal_bytes"]
        entry["instructions"] = {
            t: instructions(
                compile_for(launch, TARGETS[t]), launch.programs, turns(launch.name, launch.values), t, elements
            )
            for t in targets
            if t.startswith("sm")
        }
        # Of this size the least bytes are known, and how many times as many move.
        sized = entry | {"bytes": entry["ratio"] * call.minimal_bytes, "elements": elements}
        entry["bytes_per_element"] = sized["bytes"] / elements
        sized["flops"] = entry["flops"] * elements / entry["elements"]
        entry["predicted_us"] = {name: 1e6 * seconds(sized, d, elements) for name, d in DEVICES.items()}
        entry["floor"] = {
            name: 1e6 * call.minimal_bytes / d.bandwidth / entry["predicted_us"][name] for name, d in DEVICES.items()
        }
        bounds = {name: limits(sized, d, elements) for name, d in DEVICES.items()}
        entry["bound"] = {name: max(times, key=times.get) for name, times in bounds.items()}


def audit(targets: list[str], dtypes: list[str], widths: list[int]) -> Iterator[Finding]:
    for dtype in dtypes:
        for width in widths:
            recorded = {
                lanes: launches(DTYPES[dtype], width, lanes=lanes) for lanes in {TARGETS[t].warp_size for t in targets}
            }
            for i in range(len(next(iter(recorded.values())))):
                for target in targets:
                    yield inspect(recorded[TARGETS[target].warp_size][i], target, dtype, width)


def worst(findings: list[Finding]) -> list[dict]:
    """Of each kernel and target: most registers, stack and shared memory, least occupancy, all problems."""
    rows = {}
    for f in findings:
        row = rows.setdefault((f.kernel, f.target), {"kernel": f.kernel, "target": f.target, "occupancy": 1.0})
        row["occupancy"] = min(row["occupancy"], f.occupancy)
        for name in ("registers", "stack_bytes", "shared_bytes"):
            row[name] = max(row.get(name, 0), getattr(f, name))
        row.setdefault("problems", []).extend([f"{f.dtype}, {f.hidden_size}: {f.problem}"] if f.problem else [])
    return list(rows.values())


def unusual(dtypes: list[str], width: int) -> Iterator[tuple[tuple[int, int, int], str, int]]:
    """Sizes, dtype and width of what must compile as well, whatever becomes of it: sizes of 1, a width that is no power
    of two and no multiple of any tile's side, and float64, in which gradients are checked."""
    yield ONES, dtypes[0], width
    for dtype in dict.fromkeys([*dtypes, "fp64"]):
        yield ONES, dtype, 1
        yield USUAL, dtype, 20


def failing(sizes: tuple[int, int, int], target: str, dtype: str, width: int) -> dict[str, str]:
    """Kernel -> why it does not compile at these sizes."""
    reasons = {}
    for launch in launches(DTYPES[dtype], width, sizes):
        try:
            compile_for(launch, TARGETS[target])
        except (triton.TritonError, RuntimeError) as error:  # the latter where a pass of the compiler fails
            reasons[launch.name] = str(error).strip().splitlines()[-1]
    return reasons


def against(counted: list[dict], sizes: dict[str, int], targets: list[str]) -> list[dict]:
    """Print and return `bench.audit.compiled.beside`; nothing where Inductor is another inside than what it knows."""
    try:
        from bench.audit.compiled import beside, table

        rows = beside(counted, sizes, targets)
    except Exception as error:  # whatever another inside leads to
        if torch.__version__.startswith(INDUCTOR):
            raise
        print(f"\nnot beside the compiled reference: known is the Inductor of torch {INDUCTOR}x, not this: {error!r}")
        return []
    print(f"\nbeside the compiled reference, by the same arithmetic, ours / its an element:\n{table(rows)}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--hidden_sizes", nargs="+", type=int, default=[256, 768, 1024, 4096])
    parser.add_argument(
        "--beside",
        nargs="+",
        choices=[t for t in TARGETS if t.startswith("sm")],
        help="targets on which kernels stand beside the compiled reference, half a minute each; all of NVIDIA's",
    )
    parser.add_argument("--skip_traffic", action="store_true", help="compile only; counting takes most of the time")
    parser.add_argument("--output", type=Path, help="write the findings as JSON to this file")
    args = parser.parse_args()
    findings = []
    print(f"{'kernel':38}{'target':8}{'dtype':6}{'d':>6}{'regs':>6}{'stack':>7}{'shared':>8}{'occupied':>9}  accesses")
    for f in audit(args.targets, args.dtypes, args.hidden_sizes):
        findings.append(f)
        widths = " ".join(f.accesses) if f.target.startswith("sm") else f"{len(f.accesses)} kinds"
        numbers = f"{f.hidden_size:>6}{f.registers:>6}{f.stack_bytes:>7}{f.shared_bytes:>8}{f.occupancy:>9.0%}"
        problem = f"  <- {f.problem}" if f.problem else ""
        print(f"{f.kernel:38}{f.target:8}{f.dtype:6}{numbers}  {widths}{problem}", flush=True)
    uncompiled = 0
    for sizes, dtype, width in unusual(args.dtypes, args.hidden_sizes[0]):
        for kernel, reason in failing(sizes, args.targets[0], dtype, width).items():
            uncompiled += 1
            print(f"{kernel} does not compile for G, N, L = {sizes} in {dtype} at d = {width}: {reason}")
    counted = [] if args.skip_traffic else traffic()
    if counted:
        predict(counted, args.targets)
        head = f"{'launcher':28}{'moved / minimum':>16}{'instructions':>13}"
        print(f"\n{head}" + "".join(f"{name + ' us, of floor':>20}" for name in DEVICES))
    for entry in counted:
        of_floor = [
            f"{entry['predicted_us'][d]:.1f} {entry['floor'][d]:.2f} {entry['bound'][d][:6]:>6}" for d in DEVICES
        ]
        executed = next((f"{i['all']:.1f}" for i in entry["instructions"].values()), "")
        excess = "  <- moves too much" if entry["ratio"] > TRAFFIC_LIMIT else ""
        times = "".join(f"{text:>20}" for text in of_floor)
        print(f"{entry['launcher']:28}{entry['ratio']:>16.3f}{executed:>13}{times}{excess}")
    sizes = dict(zip("GNLd", (*REPORTED, REPORTED_WIDTH), strict=True))
    beside = [t for t in args.beside or args.targets if t.startswith("sm") and t in args.targets]
    compared = against(counted, sizes, beside) if counted and beside else []
    problems = [f for f in findings if f.problem]
    if args.output:
        results = {"triton": triton.__version__, "compiled": len(findings), "problems": len(problems)}
        results |= {"dtypes": args.dtypes, "hidden_sizes": args.hidden_sizes, "findings": worst(findings)}
        if counted:
            results |= {"traffic": counted, "compared": compared}
        write_json(args.output, results)
    excessive = [entry for entry in counted if entry["ratio"] > TRAFFIC_LIMIT]
    print(
        f"{len(findings)} kernels compiled, {len(problems)} with a problem; {uncompiled} fail at unusual sizes; "
        f"{len(excessive)} move too much"
    )
    return 1 if problems or uncompiled or excessive else 0


if __name__ == "__main__":
    sys.exit(main())
