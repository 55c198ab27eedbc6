"""The benchmarks of all ops, past a case that kills its process, and how fastmux compares with the compiled reference.

    python -m bench.ops                                  # every case; prints
    python -m bench.ops --first_pass --budget 180        # on a GPU: bfloat16, three shapes an op, in three minutes
    python -m bench.ops --clock cpu --output results/    # a small file an op, and ratios.json

The first shape of every op is timed before the second shape of any. On a GPU all ops are compiled side by side first,
and nothing is timed meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.conftest import BEGUN
from bench.harness import COMPILED, REFERENCES
from bench.machine import default_device, machine_info
from bench.processes import GRACE, ROOT, environment, run
from fastmux.backends import BACKENDS
from fastmux.files import read_json, write_json
from fastmux.passes.timer import CLOCKS
from training.formatting import markdown

FILES = sorted(Path(__file__).resolve().parent.glob("test_*.py"))
#: The microseconds of these are recorded beside an implementation's own.
TIMES = {f"{who.replace('-', '_')}_microseconds": who for who in ("torch", *REFERENCES)}
#: The largest share of the budget that compiling may take.
COMPILING = 0.4


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [file.stem.removeprefix("test_") for file in FILES]
    parser.add_argument("--ops", nargs="+", choices=names, default=names, metavar="OP", help=" ".join(names))
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all ops together")
    parser.add_argument("--first_pass", action="store_true", help="only the first shapes, in the first dtype")
    parser.add_argument("--case_seconds", type=float, default=1.0, help="seconds to time a case (default: 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a CPU that others use as well")
    parser.add_argument("--output", type=Path, help="folder for OP.json and ratios.json (default: nothing is kept)")
    return parser.parse_args(argv)


def ratios(folder: Path) -> list[dict]:
    """How many times as fast as the compiled reference fastmux is, slowest first. Each case has its fastest
    implementation, with the median microseconds of it, of the torch backend and of the reference, eager and compiled.
    """
    cases: dict[tuple, list[dict]] = {}
    for file in sorted(folder.glob("*.json")):
        result = read_json(file)
        for row in result["rows"] if "rows" in result and "op" in result else []:
            cases.setdefault((result["op"], row["direction"], row["dtype"], *_sizes(row).items()), []).append(row)
    best = []
    for (op, direction, dtype, *sizes), rows in cases.items():
        ours = [row for row in rows if row["implementation"].removesuffix(COMPILED) in BACKENDS]
        ours = [row for row in ours if "speed_to_compiled" in row]
        if ours:
            own = max(ours, key=lambda row: row["speed_to_compiled"][1])
            times = {row["implementation"]: _microseconds(row) for row in rows}
            best.append({"op": op, "direction": direction, "dtype": dtype, **dict(sizes)})
            best[-1] |= {"implementation": own["implementation"], "microseconds": _microseconds(own)}
            best[-1] |= {name: times.get(who) for name, who in TIMES.items()}
            best[-1]["speed_to_compiled"] = own["speed_to_compiled"]
    return sorted(best, key=lambda row: row["speed_to_compiled"][1])


def _sizes(row: dict) -> dict[str, int]:
    return {letter: row[letter] for letter in "GNLRVd" if letter in row}


def _microseconds(row: dict) -> float:
    """The median: the device's alone if that is known."""
    return (row["device_us"] or row["wall_us"])[1]


def section(result: dict) -> Iterator[str]:
    """The page's section on ``ratios.json``."""
    found = [row["speed_to_compiled"][1] for row in result["to_compiled"]]
    losing, clearly = (sum(ratio < least for ratio in found) for least in (1.0, 0.98))
    yield (
        "Each op, eager and by `torch.compile`, beside the plain formula of `fastmux.reference`, eager and by "
        "`torch.compile`, all in turns in one run; medians. The last columns compare the faster of ours, and ours in "
        "eager mode, with the compiled formula. Slower than it, the faster of ours: "
        f"{losing} of {len(found)}, by more than 2 %: {clearly}. `python -m bench.ops --clock {result['clock']}`."
    )
    rows = []
    for row in result["to_compiled"]:
        low, ratio, high = row["speed_to_compiled"]
        sizes = " ".join(f"{letter}={size}" for letter, size in _sizes(row).items())
        times = {name: row.get(name) for name in ("microseconds", *TIMES)}
        torch, compiled = (times[f"{who}_microseconds"] for who in ("torch", "reference_compiled"))
        cells = [f"`{row['op']}`, {row['direction']}", f"{sizes}, {row['dtype']}", row["implementation"]]
        cells += ["-" if time is None else f"{time:,.0f}" for time in times.values()]
        cells.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
        rows.append([*cells, "-" if torch is None or compiled is None else f"{compiled / torch:.2f}"])
    head = ["", "shape", "the faster", "us", "eager us", "formula us", "compiled us", "x compiled", "eager x compiled"]
    yield markdown(head, rows)


def compile_all(command: list[str], files: list[str], seconds: float) -> None:
    """Compiles the cases of every file, each file in a process of its own."""
    start = time.perf_counter()
    options = [*command, "--compile_only", "--budget", str(seconds)]
    env = environment() | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    compiling = [subprocess.Popen([*options, file], cwd=ROOT, env=env, **quiet) for file in files]
    for process in compiling:
        try:
            process.wait(timeout=max(0.0, min(start + seconds - time.perf_counter(), 1e6)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    end = time.perf_counter() + args.budget
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += ["--first_pass"] if args.first_pass else []
    files = [str(Path("bench", "ops", f"test_{name}.py")) for name in args.ops]
    if default_device().type == "cuda":
        compile_all(command, files, COMPILING * args.budget)
    options = ["--clock", args.clock, "--case_seconds", str(args.case_seconds)]
    killers: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        output = args.output or Path(folder)
        begun = output / BEGUN
        begun.unlink(missing_ok=True)
        for name in args.ops:  # of an earlier run
            (output / f"{name}.json").unlink(missing_ok=True)
        count, status = -1, -1
        # A process that was killed has begun the case that did it; the next one goes on behind that case.
        while status not in (None, 0, 1, 5) and (seconds := end - time.perf_counter()) > 0:
            cases = begun.read_text(encoding="utf-8").splitlines() if begun.exists() else []
            if len(cases) == count:
                break
            killers += cases[-1:]
            count = len(cases)
            # Less grace than whoever runs this gives, and cases end a little before the command.
            asked = [*command, *files, *options, "--output", str(output), "--budget", str(0.9 * seconds)]
            with open(os.devnull, "wb") as nowhere:
                try:
                    status, _ = run(asked, seconds, nowhere, environment(), grace=GRACE / 2)
                except KeyboardInterrupt:  # whoever runs this has no more time: the ratios of what was measured
                    status = None
        result = {"machine": machine_info(default_device()), "clock": args.clock, "to_compiled": ratios(output)}
        print("\n" + "\n\n".join(section(result)))
        if args.output:
            write_json(args.output / "ratios.json", result)
    for case in killers:
        print(f"killed its process: {case}")
    if status not in (0, 5):
        print("not all was measured, or was right")
    return 1 if killers or status not in (0, 5) else 0


if __name__ == "__main__":
    sys.exit(main())
