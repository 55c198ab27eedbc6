"""Everything that wants a device, in one call: tests, benchmarks of every op, throughput, memory, the kernel audit.

    python bench/everything.py                       # into bench/results/<device>/
    python bench/everything.py --steps tests ops --minutes 8

Each step runs in a process of its own and leaves a JSON file and a log; one that fails or runs out of time does not
keep the others from running. ``everything.json`` says how each went. Exit status 1 if one did not succeed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.machine import default_device, machine_info, results_folder
from fastmux.files import write_json

ROOT = Path(__file__).resolve().parent.parent
#: Name -> arguments of Python; {out} is the folder of the results. On a GPU, tests of kernels and models come first.
STEPS: dict[str, list[str]] = {
    "tests": ["-m", "pytest", "-q", "-n", "4", "tests", "--junitxml", "{out}/tests.xml"],
    "ops": ["-m", "pytest", "-q", "bench/ops", "--output", "{out}/ops"],
    "throughput": ["bench/throughput.py", "--disable_tqdm", "--output_dir", "{out}"],
    "memory": ["bench/memory.py", "--output_dir", "{out}"],
    "audit": ["bench/audit/kernels.py", "--output", "{out}/kernel_audit.json"],
}


def run_step(name: str, arguments: list[str], out: Path, seconds: float) -> dict[str, object]:
    """Runs one step, with its output in ``out/NAME.log``: seconds it took, exit status (None: out of time)."""
    command = [sys.executable, *(argument.format(out=out) for argument in arguments)]
    start = time.perf_counter()
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        try:
            status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            status = None
    return {"command": ["python", *arguments], "seconds": round(time.perf_counter() - start, 1), "exit": status}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--minutes", type=float, default=60.0, help="for all steps together")
    parser.add_argument("--output", type=Path, help="folder; default: bench/results/<device>")
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")
    device = default_device()
    out = (args.output or results_folder(device)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + 60 * args.minutes
    report: dict[str, object] = {"machine": machine_info(device), "steps": {}}
    for name in args.steps:
        print(f"== {name}", flush=True)
        result = run_step(name, STEPS[name], out, max(1.0, end - time.perf_counter()))
        report["steps"][name] = result
        outcome = "out of time" if result["exit"] is None else "ok" if result["exit"] == 0 else f"exit {result['exit']}"
        print(f"   {outcome} in {result['seconds']} s; {out / f'{name}.log'}", flush=True)
        # After every step: what is cut short leaves what was done.
        write_json(out / "everything.json", report)
    return 0 if all(step["exit"] == 0 for step in report["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
