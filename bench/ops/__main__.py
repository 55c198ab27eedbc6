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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from bench.conftest import BEGUN, add_options
from bench.harness import COMPILED, REFERENCES
from bench.machine import default_device, machine_info
from bench.processes import GRACE, ROOT, environment, run
from fastmux.backends import BACKENDS
from fastmux.files import read_json
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of

TESTS = Path("bench", "ops")
#: The microseconds of these are recorded beside an implementation's own.
TIMES = {f"{who.replace('-', '_')}_microseconds": who for who in ("torch", *REFERENCES)}
#: The largest share of the budget that compiling may take.
COMPILING = 0.4


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    output = "The folder for OP.json and ratios.json. Default: nothing is kept."
    parser = options_of(__doc__, output, Path, prog="python -m bench.ops")
    add_options(parser.add_argument)
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
    columns = {"": "`{op}`, {direction}", "shape": "{sizes}, {dtype}", "the faster": "{implementation}"}
    columns |= {"us": "{microseconds:,.0f}", "eager us": "{torch_microseconds:,.0f}"}
    columns |= {"formula us": "{reference_microseconds:,.0f}", "compiled us": "{reference_compiled_microseconds:,.0f}"}
    columns["x compiled"] = "{speed_to_compiled[1]:.2f} ({speed_to_compiled[0]:.2f} to {speed_to_compiled[2]:.2f})"
    columns["eager x compiled"] = "{eager_x:.2f}"
    rows = []
    for row in result["to_compiled"]:
        sizes = " ".join(f"{letter}={size}" for letter, size in _sizes(row).items())
        eager, compiled = row.get("torch_microseconds"), row.get("reference_compiled_microseconds")
        rows.append(row | {"sizes": sizes, "eager_x": compiled / eager if eager and compiled else None})
    yield table(rows, columns)


def compile_all(command: list[str], ops: list[str], seconds: float) -> None:
    """Compiles the cases of every op, each op in a process of its own."""
    start = time.perf_counter()
    options = [*command, "--compile_only", "--budget", str(seconds)]
    how = {"cwd": ROOT, "env": environment() | {"OMP_NUM_THREADS": "1"}, "timeout": min(seconds, 1e6)}

    def compiled(op: str) -> None:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([*options, "--ops", op], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)

    with ThreadPoolExecutor(len(ops)) as pool:
        list(pool.map(compiled, ops))
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    end = time.perf_counter() + args.budget
    command = [sys.executable, "-m", "pytest", str(TESTS), "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += ["--first_pass"] if args.first_pass else []
    if default_device().type == "cuda":
        compile_all(command, args.ops, COMPILING * args.budget)
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
            asked = [*command, "--ops", *args.ops, *options, "--output", str(output), "--budget", str(0.9 * seconds)]
            with open(os.devnull, "wb") as nowhere:
                try:
                    status, _ = run(asked, seconds, nowhere, environment(), grace=GRACE / 2)
                except KeyboardInterrupt:  # whoever runs this has no more time: the ratios of what was measured
                    status = None
        result = {"machine": machine_info(default_device()), "clock": args.clock, "to_compiled": ratios(output)}
        finish(result, section, args.output and args.output / "ratios.json")
    for case in killers:
        print(f"killed its process: {case}")
    if status not in (0, 5):
        print("not all was measured, or was right")
    return 1 if killers or status not in (0, 5) else 0


if __name__ == "__main__":
    sys.exit(main())
