"""Everything that wants a device, step by step: tests, benchmarks of ops, throughput, memory, tuning, the kernel audit.

    python bench/everything.py                         # a first pass of a device: tests, ops, throughput; 7.5 minutes
    python bench/everything.py --steps tune memory     # other steps; --steps all for every one
    python bench/everything.py --minutes 2             # the same in less time: every step's budget shrinks alike
    python bench/everything.py --without datasets peft # as if packages were missing

Each step runs in a process of its own, prints as it goes, and has so many seconds; one that fails or is out of time
does not keep the others from running, and leaves what it had done. Results go to bench/results/<device>/ with
``everything.json``, which says how each step went, and ``everything.log``, all that was printed. ``--archive`` keeps
them in one file as well, packed again every few seconds: whatever ends this program, the archive is there. Exit status
1 if a step did not succeed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.machine import default_device, machine_info, results_folder
from bench.processes import environment, run
from fastmux.files import replacing, write_json

#: Tests of what does not run on a device, or trains.
ELSEWHERE = (
    "*training*",
    "*packaging*",
    "*examples*",
    "*distillation*",
    "*labelling*",
    "*serving*",
    "*tests/bench*",
)


@dataclass(frozen=True)
class Step:
    """Arguments of Python, in which {out} is the folder of the results and {seconds} the budget, and that budget."""

    seconds: float
    arguments: list[str]


def _tests() -> list[str]:
    """Kernels and ops first, in as many processes as share a GPU well; past files that cannot be collected."""
    ignored = [f"--ignore-glob={pattern}" for pattern in ELSEWHERE]
    workers = ["-n", str(max(2, min(8, (os.cpu_count() or 2) // 2)))] if importlib.util.find_spec("xdist") else []
    reports = ["-rfE", "--tb=short", "--continue-on-collection-errors"]
    reports += ["-p", "bench.outcomes", "--outcomes", "{out}/tests.jsonl"]
    return ["-m", "pytest", "-q", *workers, "-p", "no:cacheprovider", *reports, *ignored, "tests/functional", "tests"]


OPS = ["-m", "bench.ops", "--budget", "{seconds}", "--output", "{out}/ops"]
THROUGHPUT = ["bench/throughput.py", "--disable_tqdm", "--output_dir", "{out}", "--budget", "{seconds}"]
#: Every N and G of a sequence task; the compiled models at few of them, since each shape compiles for itself.
SWEEP = ["--tasks", "sequence", "--num_instances", "2", "10", "20", "40", "--every_group", "--repeats", "3"]
COMPILED = ["--execution", "compiled", "--tasks", "sequence", "--num_instances", "10", "40", "--batch_sizes", "256"]
STEPS = {
    "tests": Step(170, _tests()),
    "ops": Step(170, [*OPS, "--first_pass", "--case_seconds", "0.5"]),
    "throughput": Step(110, [*THROUGHPUT, *SWEEP, "--compiled_plain"]),
    "compiled": Step(300, [*THROUGHPUT, *COMPILED, "--group_counts", "64", "--name", "throughput_compiled"]),
    "all_ops": Step(540, OPS),
    "memory": Step(120, ["bench/memory.py", "--disable_tqdm", "--output_dir", "{out}"]),
    "tune": Step(420, ["-m", "bench.tune", "--budget", "{seconds}"]),
    # In all four dtypes it takes longer than a command may.
    "audit": Step(
        540,
        ["bench/audit/kernels.py", "--hidden_sizes", "768", "--dtypes", "bf16", "--output", "{out}/kernel_audit.json"],
    ),
}
FIRST_PASS = ("tests", "ops", "throughput")


def pack(out: Path, archive: Path | None) -> None:
    """All results in one file, if one is wanted."""
    if archive is None:
        return
    with replacing(archive) as temporary, tarfile.open(temporary, "w:gz") as packed:
        packed.add(out, arcname=out.name)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=[*STEPS, "all"], default=FIRST_PASS)
    parser.add_argument("--minutes", type=float, help="for all steps together (default: the sum of their budgets)")
    parser.add_argument("--without", nargs="+", default=[], metavar="PACKAGE", help="packages that are not to be found")
    parser.add_argument("--output", type=Path, help="folder; default: bench/results/<device>")
    parser.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="the results in one file as well")
    args = parser.parse_args(argv)
    if args.minutes is not None and args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")
    args.steps = list(STEPS) if "all" in args.steps else args.steps
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    device = default_device()
    out = (args.output or results_folder(device)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    total = sum(STEPS[name].seconds for name in args.steps)
    scale = 60 * args.minutes / total if args.minutes else 1.0
    report: dict[str, object] = {"machine": machine_info(device), "without": args.without, "steps": {}}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is stopped, and its results are kept
    with tempfile.TemporaryDirectory() as folder, open(out / "everything.log", "wb") as log:
        env = environment(args.without, Path(folder))
        for name in args.steps:
            seconds = scale * STEPS[name].seconds
            arguments = [a.format(out=out, seconds=f"{seconds:.0f}") for a in STEPS[name].arguments]
            step = report["steps"][name] = {"command": ["python", *STEPS[name].arguments], "budget": round(seconds, 1)}
            step |= {"outcome": "stopped"}  # should nothing be heard of it again
            write_json(out / "everything.json", report)
            print(f"\n== {name}, {seconds:.0f} s", flush=True)
            try:
                status, taken = run([sys.executable, *arguments], seconds, log, env, lambda: pack(out, args.archive))
                step["outcome"] = "out of time" if status is None else "ok" if status == 0 else f"exit {status}"
                step["seconds"] = round(taken, 1)
            finally:
                write_json(out / "everything.json", report)
                pack(out, args.archive)
            print(f"== {name}: {step['outcome']} in {step['seconds']} s", flush=True)
    print(f"\nresults: {args.archive or out}")
    return 0 if all(step["outcome"] == "ok" for step in report["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
