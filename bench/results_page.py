"""Writes docs/results.md from the JSON files below bench/results/: nothing on that page is typed by hand.

    python bench/results_page.py            # write the page
    python bench/results_page.py --check    # say whether it is up to date

Each kind of file has one renderer, here or in `bench/training_results.py`, found by what the file holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    # Run as a file: the repository root, and not this folder, on the path.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.audit.findings import section as audit
from bench.serve import crowd_section as crowd
from bench.serve import rates_section as serving
from bench.training_results import copies, experiment, front, runs, training_run
from training.figures import markdown

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
    device = f"{e['cpu']} ({e.get('cpu_cores', '?')} cores)" if e.get("cpu") else e.get("device", "")
    parts = [device, f"{e['threads']} thread{'s' * (e['threads'] > 1)}" if "threads" in e else ""]
    parts += [f"{name} {e[name]}" for name in ("python", "torch", "triton", "transformers") if name in e]
    commit = f" Commit `{e['commit']}`." if e.get("commit") else ""
    return ", ".join(part for part in parts if part) + "." + commit


def throughput(result: dict) -> Iterator[str]:
    """Output of ``bench/throughput.py``."""
    encoder, options = result["encoder"], result["options"]
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, L = {options['length']}, "
        f"{options['dtype']}, {options['attn_implementation']}, {options.get('execution', 'eager')}; "
        f"{options['clock']} clock, medians of {options['repeats']}, each beside plain "
        f"{'steps of training' if options.get('training') else 'passes'} at their best batch size. "
        f"`python bench/throughput.py{' --training' if options.get('training') else ''}`."
    )
    rows = []
    for r in result["rows"]:
        low, high = r["ratio_quartiles"]
        rows.append(
            [
                f"{r['task']}, `{r['demultiplexer']}`",
                str(r["num_instances"]),
                f"{r['instances_per_second']:,.1f}",
                f"{r['ratio']:.2f} ({low:.2f} to {high:.2f})",
                f"{r['limit']:.2f}",
                f"{r['fraction_of_limit']:.2f}",
            ]
        )
    yield markdown(["", "N", "instances/s", "x plain (quartiles)", "limit", "of the limit"], rows)


def memory(result: dict) -> Iterator[str]:
    """Output of ``bench/memory.py``."""
    encoder = result["encoder"]
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}. Peak memory of a training step, "
        "bytes of live tensors: `python bench/memory.py`."
    )
    rows = [
        [
            r["model"] if r["model"] == "plain" else f"`{r['model']}`",
            str(r["num_instances"]),
            str(r["groups"]),
            str(r["length"]),
            f"{r['peak_bytes'] / 2**20:.1f}",
            f"{r['ratio_to_plain']:.3f}",
        ]
        for r in result["rows"]
    ]
    yield markdown(["", "N", "encoder rows", "L", "MiB", "x plain"], rows)


def loading(result: dict) -> Iterator[str]:
    """Output of ``bench/loading.py``."""
    yield f"Seconds, medians of {result['repeats']}: `python bench/loading.py`."
    rows = [[f"`{name}`" if "import" in name else name, f"{s:.3f}"] for name, s in result["imports"].items()]
    rows += [[f"load a checkpoint: {name}", f"{seconds:.3f}"] for name, seconds in result["loading"].items()]
    yield markdown(["", "s"], rows)


def to_compiled(result: dict) -> Iterator[str]:
    """``ratios.json`` of ``python -m bench.ops``."""
    ratios = [r["speed_to_compiled"][1] for r in result["to_compiled"]]
    losing, clearly = (sum(ratio < least for ratio in ratios) for least in (1.0, 0.98))
    yield (
        "Each op, eager and by `torch.compile`, beside the plain formula of `fastmux.reference`, eager and by "
        "`torch.compile`, all in turns in one run; medians. The last columns compare the faster of ours, and ours in "
        "eager mode, with the compiled formula. Slower than it, the faster of ours: "
        f"{losing} of {len(ratios)}, by more than 2 %: {clearly}. `python -m bench.ops --clock {result['clock']}`."
    )
    rows = []
    for r in result["to_compiled"]:
        low, ratio, high = r["speed_to_compiled"]
        ours, torch, eager, compiled = (
            r.get(f"{who}microseconds") for who in ("", "torch_", "reference_", "reference_compiled_")
        )
        sizes = " ".join(f"{letter}={r[letter]}" for letter in "GNLRVd" if letter in r)
        cells = [f"`{r['op']}`, {r['direction']}", f"{sizes}, {r['dtype']}", r["implementation"]]
        cells += ["-" if t is None else f"{t:,.0f}" for t in (ours, torch, eager, compiled)]
        cells.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
        cells.append("-" if torch is None or compiled is None else f"{compiled / torch:.2f}")
        rows.append(cells)
    head = ["", "shape", "the faster", "us", "eager us", "formula us", "compiled us", "x compiled", "eager x compiled"]
    yield markdown(head, rows)


def prediction(result: dict) -> Iterator[str]:
    """Output of ``bench/predict.py``."""
    encoder = result["encoder"]
    yield (
        f"Text in, labels out, at the rows' own lengths: {encoder['num_hidden_layers']} layers, d = "
        f"{encoder['hidden_size']}, random weights; {result['clock']} clock, medians of {result['repeats']} in turns. "
        "`python bench/predict.py`."
    )
    rows = [
        [
            f"{r['task']}, {r['model']}",
            str(r["num_instances"]),
            f"{r['rows']:,}",
            f"{r['rows_per_second']:,.1f}",
            f"{r['x_plain']:.2f}",
            f"{r['of_model_only']:.2f}" if "of_model_only" in r else "-",
        ]
        for r in result["rows"]
    ]
    yield markdown(["", "N", "rows", "rows/s", "x plain", "of the model alone"], rows)


def many_rows(result: dict) -> Iterator[str]:
    """Output of ``bench/rows.py``."""
    many, quarters = result["many"], [f"{size / 2**20:.0f}" for size in result["many"]["bytes_by_quarter"]]
    yield (
        f"A file of {many['rows']:,} short rows through a model of 2 layers, d = 16, N = {result['num_instances']}: "
        f"{many['rows_per_second']:,.0f} rows/s, the first ready after {many['until_first_rows_seconds']:.1f} s; "
        f"{result['beyond_the_model_bytes'] / 2**20:.0f} MiB more, in all processes, than {result['few']['rows']:,} "
        f"rows take; in the quarters of the run the first process held at most {', '.join(quarters)} MiB. "
        "`python bench/rows.py`."
    )


#: (what such a file has at its top, heading, renderer); the first that fits.
KINDS: list[tuple[set[str], str, Callable[[dict], Iterator[str]]]] = [
    ({"task", "variants"}, "Training run", training_run),
    ({"environment", "tasks"}, "Training runs beside each other", runs),
    ({"experiment", "cells", "table"}, "Experiment", experiment),
    ({"task", "entries", "sentence"}, "Accuracy against speed", front),
    ({"records"}, "One checkpoint, several speeds", copies),
    ({"encoder", "options", "rows"}, "Throughput", throughput),
    ({"few", "many", "beyond_the_model_bytes"}, "Memory in the number of rows", many_rows),
    ({"encoder", "clients", "rounds"}, "A crowd of clients", crowd),
    ({"encoder", "p99_ms", "rows"}, "Serving", serving),
    ({"encoder", "batch_tokens", "num_workers", "rows"}, "Text in, labels out", prediction),
    ({"encoder", "rows"}, "Memory", memory),
    ({"to_compiled", "clock"}, "Ops beside the compiled reference", to_compiled),
    ({"imports", "loading"}, "Start-up", loading),
    ({"findings", "triton"}, "Kernels, compiled for GPUs that are not there", audit),
]


def page() -> str:
    """The whole page.

    Raises:
        ValueError: a JSON file that no renderer knows.
    """
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.rglob("*.json"), key=lambda p: (len(p.relative_to(RESULTS).parts) < 2, p)):
        result = json.loads(path.read_text(encoding="utf-8"))
        render = next(((h, r) for keys, h, r in KINDS if keys <= result.keys()), None)
        name = path.relative_to(ROOT).as_posix()
        if render is None:
            raise ValueError(f"{name} has {', '.join(sorted(result))} at its top, which no renderer here knows")
        heading, renderer = render
        where = environment(result)
        parts += [f"## {heading}: `{path.stem}`", *renderer(result), f"{f'{where} ' if where != '.' else ''}`{name}`"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    options = parser.parse_args(argv)
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
