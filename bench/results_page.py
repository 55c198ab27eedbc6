"""Writes docs/results.md from the JSON files below bench/results/: nothing on that page is typed by hand.

    python bench/results_page.py            # write the page
    python bench/results_page.py --check    # say whether it is up to date
    python bench/results_page.py --folder F # print the sections on the files below a folder

Each program writes the section on its own files; here they are found by what a file holds, and joined.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    # Run as a file: the repository root, and not this folder, on the path.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import everything, harness, loading, memory, predict, rows, runtimes, serve, throughput, tune
from bench.audit import findings
from bench.ops import __main__ as ops
from fastmux.files import read_json
from training import copies, report
from training.fronts import verdict
from training.tables import table

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "results.md"
INTRODUCTION = """\
# Results

Made by `python bench/results_page.py` from the JSON files in `bench/results/`, one folder a device. What is not here
has not been measured. A ± is the standard deviation over random groupings of the evaluation rows.
"""


def environment(result: dict) -> str:
    """Where and with what a file was measured, in one sentence."""
    e = result.get("environment") or result.get("machine") or {}
    cpu = f"{e['cpu']} ({e.get('cpu_cores', '?')} cores)" if e.get("cpu") else ""
    parts = [e["device"] if e.get("device", "cpu") != "cpu" or not cpu else "", cpu] if e else []
    parts += [f"{e['threads']} thread{'s' * (e['threads'] > 1)}"] if "threads" in e else []
    parts += [f"{name} {e[name]}" for name in ("python", "torch", "triton", "transformers") if name in e]
    commit = f" Commit `{e['commit']}`." if e.get("commit") else ""
    return ", ".join(part for part in parts if part) + "." + commit if e else ""


#: (what the top of such a file has, heading, section); the first that fits.
KINDS: list[tuple[set[str], str, Callable[[dict], Iterator[str]]]] = [
    ({"task", "variants"}, "Training run", report.section),
    ({"environment", "tasks"}, "Training runs beside each other", report.comparison_section),
    ({"experiment", "cells", "table"}, "Experiment", table.section),
    ({"task", "entries", "sentence"}, "Accuracy against speed", verdict.section),
    ({"records"}, "One checkpoint, several speeds", copies.section),
    ({"encoder", "options", "rows"}, "Throughput", throughput.section),
    ({"few", "many", "beyond_the_model_bytes"}, "Memory in the number of rows", rows.section),
    ({"formats", "baseline", "num_workers"}, "Rows in and out of one format", rows.baseline_section),
    ({"encoder", "clients", "rounds"}, "A crowd of clients", serve.crowd_section),
    ({"encoder", "p99_ms", "rows"}, "Serving", serve.rates_section),
    ({"encoder", "runtimes", "measured_rows"}, "Runtimes on a CPU", runtimes.section),
    ({"encoder", "batch_tokens", "num_workers", "rows"}, "Text in, labels out", predict.section),
    ({"encoder", "rows"}, "Memory", memory.section),
    ({"op", "clock", "rows"}, "Op", harness.section),
    ({"to_compiled", "clock"}, "Ops beside the compiled reference", ops.section),
    ({"imports", "loading"}, "Start-up", loading.section),
    ({"launchers", "found"}, "Launch parameters", tune.section),
    ({"steps", "without"}, "A run of everything", everything.section),
    ({"findings", "triton"}, "Kernels, compiled for GPUs that are not there", findings.section),
]


def section(path: Path, name: str) -> str:
    """The section on one file.

    Raises:
        ValueError: no program knows such a file.
    """
    result = read_json(path)
    for keys, heading, written in KINDS:
        if keys <= result.keys():
            parts = [f"## {heading}: `{path.stem}`", *written(result), f"{environment(result)} `{name}`"]
            return "\n\n".join(part.strip() for part in parts)
    raise ValueError(f"{name} has {', '.join(sorted(result))} at its top, which no section here knows")


def page() -> str:
    """The whole page: folders first, then single files."""
    paths = sorted(RESULTS.rglob("*.json"), key=lambda p: (len(p.relative_to(RESULTS).parts) < 2, p))
    return "\n\n".join([INTRODUCTION.strip(), *(section(p, p.relative_to(ROOT).as_posix()) for p in paths)]) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    parser.add_argument("--folder", type=Path, help="print the sections on the JSON files below this folder")
    options = parser.parse_args(argv)
    if options.folder:
        for path in sorted(options.folder.rglob("*.json")):
            print(section(path, path.name), end="\n\n")
        return
    text = page()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/results.md is out of date: run `python bench/results_page.py`")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
