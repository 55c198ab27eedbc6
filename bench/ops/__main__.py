"""The benchmarks of all ops, past one that kills its process, and how fastmux compares with the compiled reference.

    python -m bench.ops                                  # every case; prints
    python -m bench.ops --first_pass --budget 180        # on a GPU: bfloat16, three shapes an op, in three minutes
    python -m bench.ops --clock cpu --output results/    # a small file an op, and ratios.json

On a GPU what must be compiled is compiled by all ops side by side first; nothing is timed meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import COMPILED, REFERENCES
from bench.machine import default_device, machine_info
from bench.processes import GRACE, ROOT, environment, run
from bench.timing import CLOCKS
from fastmux.backends import BACKENDS
from fastmux.files import read_json, write_json

FILES = sorted(Path(__file__).resolve().parent.glob("test_*.py"))
#: Beside an implementation's own microseconds, those that these took.
TIMES = {f"{who.replace('-', '_')}_microseconds": who for who in ("torch", *REFERENCES)}
#: Of the budget, at most, for compiling.
COMPILING = 0.4


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [file.stem.removeprefix("test_") for file in FILES]
    parser.add_argument("--ops", nargs="+", choices=names, default=names, metavar="OP", help=" ".join(names))
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all ops together")
    parser.add_argument("--first_pass", action="store_true", help="the first shapes and the first dtype alone")
    parser.add_argument("--case_seconds", type=float, default=1.0, help="of timing a case (default: 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a CPU that others use as well")
    parser.add_argument("--output", type=Path, help="folder for OP.json and ratios.json (default: nothing is kept)")
    return parser.parse_args(argv)


def ratios(folder: Path) -> list[dict]:
    """How many times as fast as the compiled reference fastmux is, slowest first: each case's fastest implementation,
    with the median microseconds of it, of the torch backend and of the reference, eager and compiled."""
    best: dict[tuple, dict] = {}
    for file in sorted(folder.glob("*.json")):
        result = read_json(file)
        rows = result["rows"] if "rows" in result and "op" in result else []
        cases = [(result["op"], row["direction"], row["dtype"], *_sizes(row).items()) for row in rows]
        times: dict[tuple, dict[str, float]] = {}
        for key, row in zip(cases, rows, strict=True):
            times.setdefault(key, {})[row["implementation"]] = _microseconds(row)
        for key, row in zip(cases, rows, strict=True):
            if row["implementation"].removesuffix(COMPILED) not in BACKENDS or "speed_to_compiled" not in row:
                continue
            own = {"op": result["op"], "direction": row["direction"], "dtype": row["dtype"], **_sizes(row)}
            own |= {"implementation": row["implementation"], "microseconds": _microseconds(row)}
            own |= {name: times[key].get(who) for name, who in TIMES.items()}
            own["speed_to_compiled"] = row["speed_to_compiled"]
            if key not in best or own["speed_to_compiled"][1] > best[key]["speed_to_compiled"][1]:
                best[key] = own
    return sorted(best.values(), key=lambda row: row["speed_to_compiled"][1])


def _sizes(row: dict) -> dict[str, int]:
    return {letter: row[letter] for letter in "GNLRVd" if letter in row}


def _microseconds(row: dict) -> float:
    """The median: on the device alone where that is known."""
    return (row["device_us"] or row["wall_us"])[1]


def table(rows: list[dict]) -> str:
    head = f"{'us':>11}{'torch us':>11}{'eager us':>11}{'compiled us':>13}{'times compiled':>16}{'quartiles':>13}"
    lines = ["", f"{'op':22}{'direction':18}{'by':16}{head}  sizes"]
    for row in rows:
        low, median, high = row["speed_to_compiled"]
        sizes = " ".join(f"{letter}={size}" for letter, size in _sizes(row).items())
        torch, eager, compiled = ("-" if row[name] is None else f"{row[name]:.1f}" for name in TIMES)
        lines.append(
            f"{row['op']:22}{row['direction']:18}{row['implementation']:16}{row['microseconds']:>11.1f}{torch:>11}"
            f"{eager:>11}{compiled:>13}{median:>16.2f}{f'{low:.2f}-{high:.2f}':>13}  {sizes} {row['dtype']}"
        )
    losing = sum(row["speed_to_compiled"][1] < 1 for row in rows)
    return "\n".join([*lines, f"{losing} of {len(rows)} slower than the compiled reference"])


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    end = time.perf_counter() + args.budget
    env = environment()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    files = [str(Path("bench", "ops", f"test_{name}.py")) for name in args.ops]
    chosen = ["--first_pass"] if args.first_pass else []
    if default_device().type == "cuda":
        start = time.perf_counter()
        budget = str(COMPILING * args.budget)
        compiling = [
            subprocess.Popen(
                [*command, file, *chosen, "--compile_only", "--budget", budget],
                cwd=ROOT,
                env=env | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for file in files
        ]
        for process in compiling:
            try:
                process.wait(timeout=max(0.0, min(start + COMPILING * args.budget - time.perf_counter(), 1e6)))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        output = args.output or Path(folder)
        options = ["--output", str(output), "--clock", args.clock, "--case_seconds", str(args.case_seconds)]
        left, failed = list(args.ops), []
        while left and (seconds := end - time.perf_counter()) > 0:
            began = time.time()
            own = [file for name, file in zip(args.ops, files, strict=True) if name in left]
            # Less grace than whoever runs this gives, and cases end a little before the command.
            budget = ["--budget", str(0.9 * seconds)]
            asked = [*command, *own, *chosen, *options, *budget]
            with open(os.devnull, "wb") as nowhere:
                try:
                    status, _ = run(asked, seconds, nowhere, env, grace=GRACE / 2)
                except KeyboardInterrupt:  # whoever runs this has no more time: of what was measured, the ratios
                    status = None
            done = {file.stem for file in output.glob("*.json") if file.stat().st_mtime >= began}
            if status == 0:
                left = []
            elif status is None or status == 1:  # out of time, or a wrong result among those that were measured
                failed, left = left, []
            else:  # it was killed: on with the ops that have no results, without the first if that is the one
                dropped = [name for name in left if name in done] or left[:1]
                failed += dropped
                left = [name for name in left if name not in dropped]
        rows = ratios(output)
        print(table(rows))
        if args.output:
            result = {"machine": machine_info(default_device()), "clock": args.clock, "to_compiled": rows}
            write_json(args.output / "ratios.json", result)
    if failed or left:
        print(f"not all was measured, or was right: {' '.join(failed + left)}")
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
