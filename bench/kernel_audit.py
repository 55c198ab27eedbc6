"""Compile every Triton kernel, as its launcher would launch it, for GPUs that are not here, and read what came out.

    python bench/kernel_audit.py                       # sm_80, sm_90, sm_100 and gfx942; needs no GPU
    python bench/kernel_audit.py --targets sm_90 --hidden_sizes 768

For each kernel, dtype and width: registers, stack (spills), shared memory and the width of global loads and stores.
Exit status 1 if a kernel spills on an NVIDIA target, or if it has no access of 16 bytes a thread.

The launchers of `fastmux.kernels` are run on small CPU tensors with their kernels replaced by recorders: what is
compiled is the code that ships, with the tiles, warps and argument types that it would be launched with.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined; the interpreter compiles nothing

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fastmux.functional.walsh_hadamard import kernel_factors
from fastmux.kernels import embedding_mux, hadamard_mux, index_demux, walsh_hadamard
from training.files import write_json

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int8: "*i8",
}


@dataclass
class Launch:
    """One recorded launch: kernel, positional arguments, constexprs and options."""

    name: str
    kernel: object
    arguments: tuple
    options: dict


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
    accesses: list[str]
    problem: str | None


class Recorder:
    """Stands where a kernel stands in its module; remembers launches in place of launching."""

    def __init__(self, name: str, kernel: object, launches: list[Launch]):
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid) -> Callable:
        return lambda *arguments, **options: self.launches.append(Launch(self.name, self.kernel, arguments, options))


def record(module, calls: list[tuple]) -> list[Launch]:
    """The launches that ``calls``, (launcher name, arguments), of a module of `fastmux.kernels` would make."""
    launches: list[Launch] = []
    kernels = {n: k for n, k in vars(module).items() if n.endswith("_kernel")}
    basename = module.__name__.rpartition(".")[2]
    try:
        for name, kernel in kernels.items():
            setattr(module, name, Recorder(basename + name, kernel, launches))
        for launcher, arguments in calls:
            getattr(module, launcher)(*arguments)
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)
    return launches


def launches(dtype: torch.dtype, width: int) -> list[Launch]:
    """Every kernel of the project, in every variant of its arguments that compiles differently."""
    g, n, length = 2, 4, 128
    x, y = torch.ones(g, n, length, width, dtype=dtype), torch.ones(g, length, width, dtype=dtype)
    v, p = torch.ones(n, width, dtype=dtype), torch.ones(g, n, width, dtype=dtype)
    drawn = torch.zeros(g, length, dtype=torch.long)
    row = torch.ones(width, dtype=dtype)
    mux = [
        ("hadamard_mux_forward", (x, v, 0.25)),
        ("hadamard_mux_dx", (y, v, 0.25, dtype)),
        ("hadamard_mux_dv", (y, x, 0.25, dtype)),
    ]
    heads = [torch.ones(c, width, dtype=dtype) for c in (4, 16)]
    demux = [
        ("index_demux_forward", (y, p, None, row, row, 1e-12)),
        ("index_demux_forward", (y, p, drawn, row, row, 1e-12)),
        ("index_demux_backward", (x, y, p, None, row, 1e-12, True, True)),
        ("index_demux_backward", (y, y, p, drawn, row, 1e-12, True, True)),
        ("index_demux_backward", (x, y, p, None, row, 1e-12, False, False)),
        ("index_demux_forward", (y, p, None, row, row, 1e-12, heads[0])),
        ("index_demux_forward", (y, p, None, row, row, 1e-12, heads[1])),
        ("index_demux_forward", (y, p, drawn, row, row, 1e-12, heads[0])),
        ("index_demux_forward", (y, p, None, row, row, 1e-12, None, None, True)),
        ("index_demux_backward", (x, y, p, None, row, 1e-12, True, True, True)),
        ("index_demux_head_backward", (x[..., :4], y, p, None, row, row, heads[0], 1e-12, True, True)),
        ("index_demux_head_backward", (y[..., :4], y, p, drawn, row, row, heads[0], 1e-12, True, True)),
    ]
    table, ids = torch.ones(512, width, dtype=dtype), torch.zeros(g, n, length, dtype=torch.long)
    shared, none, seed = torch.arange(length), torch.zeros(length, dtype=torch.long), 2**40 + 3
    norm, norms = (1e-12, 0.25), (True,) * 6
    # As BERT is given (positions and types shared by all rows), with ids of each row's own, and words alone.
    bert = (ids, shared, none, table, table, table[:2], row, row, v)
    own = (ids, ids, ids, table, table, table[:2], row, row, v)
    words = (ids, None, None, table, *[None] * 4, v)
    frozen = (False, False, False, False, False, True)
    embedding = [
        ("embedding_mux_forward", (*bert, *norm, 0.0, 0)),
        ("embedding_mux_forward", (*bert, *norm, 0.1, seed)),
        ("embedding_mux_forward", (*own, *norm, 0.1, seed)),
        ("embedding_mux_forward", (*words, *norm, 0.0, 0)),
        ("embedding_mux_backward", (y, *bert, *norm, 0.0, 0, -1, -1, norms, False)),
        ("embedding_mux_backward", (y, *bert, *norm, 0.1, seed, 0, -1, norms, False)),
        ("embedding_mux_backward", (y, *bert, *norm, 0.1, seed, 0, -1, norms, True)),
        ("embedding_mux_backward", (y, *own, *norm, 0.1, seed, 0, 1, norms, False)),
        ("embedding_mux_backward", (y, *words, *norm, 0.0, 0, 0, -1, frozen, False)),
    ]
    signs = torch.ones(n, width, dtype=torch.int8)
    factors = [kernel_factors(width, transpose, dtype, torch.device("cpu")) for transpose in (False, True)]
    rotation = [
        ("walsh_hadamard_mux_forward", (x, signs, signs, 0.5, *factors[0])),
        ("walsh_hadamard_mux_dx", (y, signs, signs, 0.5, dtype, *factors[1])),
    ]
    return (
        record(walsh_hadamard, rotation)
        + record(hadamard_mux, mux)
        + record(embedding_mux, embedding)
        + record(index_demux, demux)
    )


def compile_for(launch: Launch, target: GPUTarget):
    """Compile a recorded launch as Triton would at run time: same types, same divisibility hints, same constants."""
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.arguments, strict=False)) | {k: v for k, v in launch.options.items() if k in names}
    signature, constants, hints = {}, {}, {}
    for position, name in enumerate(names):
        value = values[name]
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
    options = {k: v for k, v in launch.options.items() if k in ("num_warps", "num_stages")}
    return triton.compile(source, target=target, options=options)


def inspect(launch: Launch, target_name: str, dtype: str, width: int) -> Finding:
    """Compile one launch for one target and read registers, spills and access widths."""
    compiled = compile_for(launch, TARGETS[target_name])
    registers = stack = problem = None
    accesses: list[str] = []
    if "cubin" in compiled.asm:
        usage, sass = _cuobjdump(compiled.asm["cubin"])
        registers, stack = (int(v) for v in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        accesses = sorted(set(re.findall(r"(?:LDG|STG)\.E[.\w]*", sass)))
        if stack:
            problem = f"spills {stack} bytes"
        elif not any("128" in a for a in accesses):
            problem = "no access of 16 bytes"
    else:
        text = compiled.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s*(\d+)", text)[1])
        stack = int(re.search(r"\.vgpr_spill_count:\s*(\d+)", text)[1]) * 4
        accesses = sorted(set(re.findall(r"(?:global|buffer)_(?:load|store)_\w+", text)))
    return Finding(
        launch.name, target_name, dtype, width, registers, stack, compiled.metadata.shared, accesses, problem
    )


def _cuobjdump(cubin: bytes) -> tuple[str, str]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("-res-usage", "-sass")
        )
    return usage.stdout + usage.stderr, sass.stdout


def audit(targets: list[str], dtypes: list[str], widths: list[int]) -> Iterator[Finding]:
    for dtype in dtypes:
        for width in widths:
            for launch in launches(DTYPES[dtype], width):
                for target in targets:
                    yield inspect(launch, target, dtype, width)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--hidden_sizes", nargs="+", type=int, default=[256, 768, 1024, 4096])
    parser.add_argument("--output", type=Path, help="write the findings as JSON to this file")
    args = parser.parse_args()
    findings = []
    print(f"{'kernel':38}{'target':8}{'dtype':6}{'d':>6}{'regs':>6}{'stack':>7}{'shared':>8}  accesses")
    for f in audit(args.targets, args.dtypes, args.hidden_sizes):
        findings.append(f)
        widths = " ".join(f.accesses) if f.target.startswith("sm") else f"{len(f.accesses)} kinds"
        numbers = f"{f.hidden_size:>6}{f.registers:>6}{f.stack_bytes:>7}{f.shared_bytes:>8}"
        problem = f"  <- {f.problem}" if f.problem else ""
        print(f"{f.kernel:38}{f.target:8}{f.dtype:6}{numbers}  {widths}{problem}", flush=True)
    if args.output:
        write_json(args.output, {"triton": triton.__version__, "findings": [asdict(f) for f in findings]})
    problems = [f for f in findings if f.problem]
    print(f"{len(findings)} kernels compiled, {len(problems)} with a problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
