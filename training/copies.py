"""Accuracy against speed from one checkpoint: the models of a finished run, with 1, 2, ... N copies of every row.

    python training/copies.py runs/stdlib                 # prints a table, writes copies.json and copies.png in the run

A group of N slots serves N // copies rows, each in several slots, and averages their logits (MUX-PLM, "ensembling").
Every number is over all evaluation rows: accuracy over several random groupings, instances per second through the
library's engine, all models in turns, and the plain encoder by a forward of Hugging Face's alone as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastmux
from fastmux.distillation.speed import engine_of, plain_forward, tokens_of
from fastmux.files import read_json
from fastmux.passes.timer import rates
from fastmux.searching.measure import answers_in_groups
from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.features import encode_sequences
from fastmux.training.folders import RunFolder
from fastmux.training.formatting import Cell, measured, table
from fastmux.training.models import PLAIN
from fastmux.training.programs import environment, finish, options_of, positive, run_program
from fastmux.training.run_result import Score
from fastmux.training.tasks import make_task

#: The plain encoder without the engine, among what is timed.
_FORWARD = ("forward", 1)


def measure(run: RunFolder, variants: list[str], groupings: int, data_dir: str | None) -> dict[str, object]:
    """The content of ``copies.json`` but for the environment: a record for the plain encoder, and for every variant and
    number of copies.

    Raises:
        ValueError: The run is not one of a sequence task.
    """
    settings = read_json(run.settings)
    task = make_task(settings)
    if task.kind != "sequence":
        raise ValueError(f"{run.path} holds a run of {task.name!r}; copies are measured on sequence tasks")
    tokenizer = AutoTokenizer.from_pretrained(run.model(PLAIN))
    split = next(iter(task.load(data_dir).evaluation.values()))
    rows = encode_sequences(tokenizer, split, settings["recipe"]["max_length"])
    tokens, labels, n = tokens_of(rows), np.asarray(rows["labels"]), settings["recipe"]["num_instances"]
    plain = AutoModelForSequenceClassification.from_pretrained(run.model(PLAIN))
    engines = {(PLAIN, 1): engine_of(plain, tokenizer)}
    for name in variants:
        model = fastmux.TMuxForSequenceClassification.from_pretrained(run.model(name))
        for copies in sorted({n // distinct for distinct in range(1, n + 1)}):
            engines[name, copies] = engine_of(model, tokenizer, copies)
    calls = {key: partial(engine.run, tokens) for key, engine in engines.items()}
    calls[_FORWARD] = partial(plain_forward, plain.eval(), tokenizer, tokens)
    speeds = {key: rate.rows_per_second for key, rate in rates(calls, len(labels), repeats=groupings).items()}
    records = []
    for (name, copies), engine in engines.items():
        answers = answers_in_groups(engine, tokens, groupings, 0)
        score = Score.of([float((said.logits.argmax(-1) == labels).mean()) for said in answers])
        record = {"variant": name, "copies": copies, "rows_per_group": 1 if name == PLAIN else n // copies}
        record |= {"accuracy": score.mean, "accuracy_std": score.std, "instances_per_second": speeds[name, copies]}
        records.append(record)
    return {"records": records, "forward_instances_per_second": speeds[_FORWARD]}


def section(result: dict) -> Iterator[str]:
    """``copies.json`` in Markdown, for the terminal and the page of results."""
    yield "Each row in one, two, ... slots of its group: `python training/copies.py RUN`."
    records, forward = result["records"], result.get("forward_instances_per_second")
    columns: dict[str, Cell] = {"": "`{variant}`", "copies": "{copies}", "rows a pass": "{rows_per_group}"}
    columns["accuracy"] = lambda row: measured(row["accuracy"], row["accuracy_std"])
    columns["instances/s"] = "{instances_per_second:,.0f}"
    for beside, rate in (("same engine", records[0]["instances_per_second"]), ("forward of Hugging Face's", forward)):
        if forward:
            columns[f"x plain, {beside}"] = lambda row, rate=rate: f"{row['instances_per_second'] / rate:.2f}"
    yield table(records, columns)


def plot_copies(path: Path, records: list[dict]) -> None:
    """Draws accuracy over instances per second, a line for each variant."""
    lines = []
    for name in dict.fromkeys(record["variant"] for record in records):
        own = [record for record in records if record["variant"] == name]
        points = [(record["instances_per_second"], record["accuracy"]) for record in own]
        names = [f"{record['copies']}x" for record in own]
        lines.append(Line(points, [record["accuracy_std"] for record in own], names, {"label": name, "marker": "o"}))
    draw(path, "copies of each row in a group", [Panel(lines, {"xlabel": "instances/s", "ylabel": "accuracy"})])


def main(argv: list[str] | None = None) -> list[dict]:
    parser = options_of(__doc__, None)
    parser.add_argument("run", type=Path, help="The folder of a finished run of train.py.")
    parser.add_argument("--variants", nargs="+", default=["index", "unbind"], metavar="NAME", help="What is measured.")
    parser.add_argument("--groupings", type=positive, default=5, help="Random groupings, and turns of the timing.")
    parser.add_argument("--data-dir", help="As given to train.py.")
    args = parser.parse_args(argv)
    run = RunFolder(args.run)
    for needed in (run.settings, *(run.model(name) for name in (PLAIN, *args.variants))):
        if not needed.exists():
            missing = needed.relative_to(args.run)
            raise ValueError(f"{args.run} holds no {missing}; expected the folder of a finished run of train.py")
    result = measure(run, args.variants, args.groupings, args.data_dir)
    plot_copies(args.run / "copies.png", result["records"])
    finish({"environment": environment(), **result}, section, args.run / "copies.json", ", copies.png")
    return result["records"]


if __name__ == "__main__":
    run_program(main)
