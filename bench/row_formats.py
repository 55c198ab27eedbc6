"""Speed of the rows of `fastmux.predict`: many short rows of eight columns, JSON lines to JSON lines and Parquet to
Parquet, through a model of one tiny layer, beside another checkout's.

    git worktree add --detach ../base d2678c0
    python bench/row_formats.py --baseline ../base --rows 1000000      # minutes; 1 GB of disk

Both checkouts label the same files with the same model, in turns. A ratio is the baseline's seconds over ours: of
processor time, in all processes, and on the clock, which other work on the machine lengthens. What a run of 1,000 rows
takes, imports and all, is not in them. Memory is the peak of all processes together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import pyarrow
import pyarrow.parquet

from bench.machine import default_device, machine_info, results_folder
from bench.processes import ROOT, environment
from bench.record import positive
from bench.rows import store_model, texts_of_words
from fastmux.files import write_json
from training.formatting import markdown

_ENDINGS = (".jsonl", ".parquet")
_FEW, _BATCH = 1_000, 50_000


def write_rows(path: Path, rows: int) -> None:
    """Rows of eight columns: text, numbers, truth values, lists and nulls."""
    draw = random.Random(0)
    texts = texts_of_words(draw)
    schema = pyarrow.schema(
        {
            "id": pyarrow.int64(), "text": pyarrow.string(), "title": pyarrow.string(), "stars": pyarrow.int64(),
            "price": pyarrow.float64(), "sold": pyarrow.bool_(), "tags": pyarrow.list_(pyarrow.string()),
            "note": pyarrow.string(),
        }
    )  # fmt: skip
    table = path.suffix == ".parquet"
    with pyarrow.parquet.ParquetWriter(path, schema) if table else open(path, "w", encoding="utf-8") as file:
        for begin in range(0, rows, _BATCH):
            some = [
                {
                    "id": number,
                    "text": texts[number % len(texts)],
                    "title": f"title {number % 997}",
                    "stars": number % 5,
                    "price": number / 7,
                    "sold": number % 3 == 0,
                    "tags": ["a", f"t{number % 11}"],
                    "note": None if number % 2 else "a few words",
                }
                for number in range(begin, min(rows, begin + _BATCH))
            ]
            if table:
                file.write_table(pyarrow.Table.from_pylist(some, schema))
            else:
                file.writelines(json.dumps(row) + "\n" for row in some)


def run(checkout: Path, model: Path, source: Path, output: Path, num_workers: int) -> dict[str, float]:
    """What a process that calls a checkout's `fastmux.predict` takes, with those that tokenise for it."""
    files = ", ".join(repr(str(file)) for file in (model, source, output))
    command = [sys.executable, "-c", f"import bench.rows\nbench.rows.measured({files}, {num_workers})"]
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    start, before = time.perf_counter(), sum(os.times()[2:4])
    done = subprocess.run(
        command, env=environment() | {"PYTHONPATH": path}, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, processor = time.perf_counter() - start, sum(os.times()[2:4]) - before
    output.unlink()
    found = json.loads(done.stdout.splitlines()[-1])
    memory = found["peak_bytes"] + found["peak_bytes_of_other_processes"]
    return {"processor_seconds": processor, "seconds": seconds, "peak_bytes": memory}


def figures(many: list[dict], few: list[dict]) -> dict[str, float]:
    """Medians over a checkout's runs; of times, of what many rows take longer than few."""
    found = {name: statistics.median(one[name] for one in many) for name in many[0]}
    for name in ("processor_seconds", "seconds"):
        found[name] -= statistics.median(one[name] for one in few)
    return found


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield (
        f"{result['rows']:,} short rows of eight columns through a model of one layer, d = 16, N = "
        f"{result['num_instances']}, beside commit `{result['baseline'][:12]}`, medians of {result['repeats']} in "
        "turns. "
        "`python bench/row_formats.py`.\n"
    )
    rows = []
    for ending, found in result["formats"].items():
        ours, theirs = found["ours"], found["baseline"]
        ratios = [theirs[name] / ours[name] for name in ("processor_seconds", "seconds", "peak_bytes")]
        rows.append(
            [f"`{ending}` to `{ending}`", f"{result['rows'] / ours['processor_seconds']:,.0f}"]
            + [f"{ratio:.2f}" for ratio in ratios]
        )
    header = ["rows", "rows a second of a processor", "baseline / ours: processor", "clock", "memory"]
    yield markdown(header, rows)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, required=True, metavar="PATH", help="another checkout of fastmux")
    parser.add_argument("--rows", type=positive, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--repeats", type=positive, default=1, help="runs of each (default: 1)")
    parser.add_argument("--num_instances", type=positive, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that tokenise (default: 1)")
    parser.add_argument("--work_dir", type=Path, help="folder for 1 KB a row (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file; default: row_formats.json in the results folder")
    args = parser.parse_args(argv)
    checkouts = {"baseline": args.baseline.resolve(), "ours": ROOT}
    commit = subprocess.run(
        ["git", "-C", str(args.baseline), "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    device = default_device()
    result = {"machine": machine_info(device), "rows": args.rows, "num_instances": args.num_instances}
    result |= {"num_workers": args.num_workers, "repeats": args.repeats, "baseline": commit, "formats": {}}
    output = args.output or results_folder(device) / "row_formats.json"
    with tempfile.TemporaryDirectory(dir=args.work_dir) as name:
        folder = Path(name)
        store_model(folder / "model", args.num_instances, layers=1)
        for ending in _ENDINGS:
            runs: dict[tuple[str, str], list[dict]] = {}
            sizes = {"few": min(_FEW, args.rows), "many": args.rows}
            for part, rows in sizes.items():
                write_rows(folder / f"{part}{ending}", rows)
            for _ in range(args.repeats):
                for (part, _), (who, checkout) in itertools.product(sizes.items(), checkouts.items()):
                    files = (folder / "model", folder / f"{part}{ending}", folder / f"{who}{ending}")
                    runs.setdefault((who, part), []).append(run(checkout, *files, args.num_workers))
            (folder / f"many{ending}").unlink()
            result["formats"][ending] = {who: figures(runs[who, "many"], runs[who, "few"]) for who in checkouts}
            write_json(output, result)
    print(*section(result), sep="\n")
    return result


if __name__ == "__main__":
    main()
