"""Compile every Triton kernel, as its launcher would launch it, for GPUs that are not here, and read what came out.

    python bench/audit/kernels.py                       # sm_80, sm_90, sm_100 and gfx942; needs no GPU
    python bench/audit/kernels.py --targets sm_90 --hidden_sizes 768

The audit reports registers, stack (spills), shared memory and the width of global loads and stores for each kernel,
dtype and width. It ends with exit status 1 if a kernel

- spills,
- has no access of 16 bytes a thread, or multiplies matrices without tensor cores (seen in NVIDIA's instructions only),
- does not compile for one group, instance, position or feature, for 20 features, or in float64 (tried on the first
  target),
- or moves more than 1.1 times the bytes that it must (`bench.audit.traffic` counts them under the interpreter).

The launchers of `fastmux.kernels` run on small CPU tensors while recorders stand in for their kernels. So the code that
is compiled is the code that ships, with the tiles, warps and argument types that a launch would have.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined; the interpreter compiles nothing

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.audit.findings import Finding, section, worst
from bench.audit.launches import calls
from bench.audit.recording import Launch, launches
from bench.machine import DATASHEET
from fastmux.training.programs import finish, options_of

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
#: Target -> registers of 32 bits, bytes of shared memory and resident warps of a multiprocessor. One of AMD's has a
#: register file for each of its 4 SIMDs.
MULTIPROCESSORS = {
    "sm_80": (65536, 164 << 10, 64),
    "sm_90": (65536, 228 << 10, 64),
    "sm_100": (65536, 228 << 10, 64),
    "gfx942": (4 * 64 * 512, 64 << 10, 32),
}
#: Bytes of stack that are no spill to mend: ptxas moves a value or two of a thread there, outside of the loops, where
#: that lets one more program onto a multiprocessor. More is a tile that is too large.
TOLERATED_STACK = 32
#: Kernels whose work is matrix products.
MATRIX_KERNELS = ("walsh_hadamard", "pair_norm_head")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
#: G, N, L: Triton makes a constant of an argument of 1, and what a scalar can do may not compile on one.
USUAL, ONES = (2, 4, 128), (1, 1, 1)
#: G, N, L and d of the floors.
REPORTED = (171, 4, 128, 768)
TRAFFIC_LIMIT = 1.1
_TYPES = {dtype: f"*{name}" for name, dtype in DTYPES.items()} | {torch.int64: "*i64", torch.int8: "*i8"}


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """The share of a multiprocessor's warps that registers, shared memory and warps allow to be resident."""
    all_registers, all_shared, all_warps = MULTIPROCESSORS[target]
    by_registers = all_registers // (-(-registers // 8) * 8 * TARGETS[target].warp_size * warps)
    by_shared = all_shared // (shared + 1024)  # the system keeps 1 KiB of each program's
    # 32: the programs that a multiprocessor takes, however small they are.
    return min(32, all_warps // warps, by_registers, by_shared) * warps / all_warps


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
    known = ("enable_fp_fusion", "num_warps", "num_stages", "maxnreg")[: 3 if target.backend == "hip" else 4]
    options = {k: v for k, v in launch.options.items() if k in known}
    return triton.compile(source, target=target, options=options)


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


def inspect(launch: Launch, target: str, dtype: str, width: int) -> Finding:
    """Compile one launch for one target, and read its registers, spills and widths of access."""
    compiled = compile_for(launch, TARGETS[target])
    problem = None
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
    occupied = occupancy(target, registers, shared, compiled.metadata.num_warps)
    return Finding(launch.name, target, dtype, width, registers, stack, shared, occupied, accesses, problem)


def audit(targets: list[str], dtypes: list[str], widths: list[int]) -> Iterator[Finding]:
    """Every kernel, for every target, dtype and width."""
    for dtype in dtypes:
        for width in widths:
            by_lanes = {n: launches(DTYPES[dtype], width, lanes=n) for n in {TARGETS[t].warp_size for t in targets}}
            for i in range(len(next(iter(by_lanes.values())))):
                for target in targets:
                    yield inspect(by_lanes[TARGETS[target].warp_size][i], target, dtype, width)


def traffic() -> list[dict]:
    """What `bench.audit.traffic` counts, with the floors; it runs in a process whose kernels the interpreter has."""
    command = [sys.executable, "-m", "bench.audit.traffic"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bench.audit.traffic failed:\n{done.stderr}")
    *sizes, width = REPORTED
    with torch.device("meta"):
        minimal = [call.minimal_bytes for call in calls(torch.bfloat16, width, *sizes)]
    counted = json.loads(done.stdout)
    for entry, size in zip(counted, minimal, strict=True):
        entry["ratio"] = entry["bytes"] / entry["minimal_bytes"]
        entry["floor_us"] = {name: 1e6 * size / bandwidth for name, bandwidth in DATASHEET.items()}
    return counted


def failing(sizes: tuple[int, int, int], target: str, dtype: str, width: int) -> dict[str, str]:
    """Kernel -> why it does not compile at these sizes."""
    reasons = {}
    for launch in launches(DTYPES[dtype], width, sizes):
        try:
            compile_for(launch, TARGETS[target])
        except (triton.TritonError, RuntimeError) as error:  # the latter where a pass of the compiler fails
            reasons[launch.name] = str(error).strip().splitlines()[-1]
    return reasons


def unusual(dtypes: list[str], width: int) -> Iterator[tuple[tuple[int, int, int], str, int]]:
    """Sizes, dtype and width that must compile as well: sizes of 1, a width that is no power of two and no multiple of
    any tile's side, and float64, in which gradients are checked."""
    yield ONES, dtypes[0], width
    for dtype in dict.fromkeys([*dtypes, "fp64"]):
        yield ONES, dtype, 1
        yield USUAL, dtype, 20


def main() -> int:
    parser = options_of(__doc__, "The JSON file to write, if any.")
    add = parser.add_argument
    add("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="The GPUs to compile for.")
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="The dtypes of the tensors.")
    add("--hidden_sizes", nargs="+", type=int, default=[256, 768, 1024, 4096], help="The widths.")
    add("--skip_traffic", action="store_true", help="Only compile: counting bytes takes a minute more.")
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
    excessive = [entry["launcher"] for entry in counted if entry["ratio"] > TRAFFIC_LIMIT]
    problems = sum(f.problem is not None for f in findings)
    result = {"triton": triton.__version__, "compiled": len(findings), "problems": problems, "dtypes": args.dtypes}
    result |= {"hidden_sizes": args.hidden_sizes, "findings": worst(findings), "traffic": counted}
    finish(result, section, args.output)
    print(f"{uncompiled} fail at unusual sizes; {len(excessive)} move too much {' '.join(excessive)}")
    return 1 if problems or uncompiled or excessive else 0


if __name__ == "__main__":
    sys.exit(main())
