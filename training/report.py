"""The report of a run: tables and pictures for the reader, and the same numbers in JSON for programs.

    python training/report.py runs/sst2 runs/sst2-2 runs/sst2-3      # several runs beside each other, in report/

writes report.md and report.json, with a table for each task, and TASK.png: accuracy against N, learning curves,
accuracy of each slot. A RUN is the folder of a finished run of train.py, or its metrics.json under another name.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fastmux.files import read_json, replacing, write_json
from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.folders import SETTINGS, RunFolder
from fastmux.training.formatting import for_terminal, interval, markdown, number, table
from fastmux.training.models import ALONE, PLAIN, SMALLER
from fastmux.training.programs import finish, options_of, run_program
from fastmux.training.run_result import RunResult, Score, VariantResult, of_json

#: What the table's columns are.
_COLUMNS = (
    "The difference is to `plain`, with the interval that 95 % of draws of the rows are in. Slots are the lowest and "
    "the highest score among the slots of a group. Retrieval is the accuracy after the warm-up / at the end."
)


def write_report(result: RunResult, folder: RunFolder) -> None:
    """Writes metrics.json and the learning curves, and prints the tables."""
    recipe = result.settings["recipe"]
    plot(folder.curves, f"{result.task}, N = {recipe['num_instances']}, L = {recipe['max_length']}", {"": result})
    finish(asdict(result), section, folder.metrics, f", {folder.curves.name}, and models in VARIANT/task/model")


def what_it_bought(variants: dict[str, VariantResult], metric: str, split: str) -> list[str]:
    """A sentence for each multiplexed variant: its score and speed beside those of the smaller plain encoder that is
    closest to it in speed. None without such an encoder."""
    smaller = [name for name in SMALLER if name in variants]
    sentences = []
    for name in variants if smaller else ():
        if name in (PLAIN, *SMALLER):
            continue
        rate = variants[name].throughput.instances_per_second
        times = {rival: rate / variants[rival].throughput.instances_per_second for rival in smaller}
        rival = min(smaller, key=lambda other: abs(math.log(times[other])))
        own, other = (variants[which].scores[split][metric].mean for which in (name, rival))
        sentences.append(
            f"{name} against {rival}, the smaller plain encoder that is closest in speed: {split} {metric} {own:.4f} "
            f"against {other:.4f}, {100 * (own - other):+.1f} points, at {times[rival]:.2f} times its speed."
        )
    return sentences


def instances(variant: str, result: RunResult) -> int:
    """The number N of rows that share a pass of a variant."""
    return 1 if variant in ALONE else result.settings["recipe"]["num_instances"]


def table_of(runs: dict[str, RunResult]) -> str:
    """A table of runs of one task, by name: a row for each run, variant and split."""
    rows, metric = [], next(iter(runs.values())).metric
    for run, result in runs.items():
        for name, own in result.variants.items():
            both = (own.retrieval_accuracy_after_warm_up, own.retrieval_accuracy)
            retrieval = " / ".join(number(found.mean) if found else "-" for found in both) if any(both) else None
            for split, scores in own.scores.items():
                difference, slots = own.difference_to_plain.get(split), [s.mean for s in own.slots.get(split, [])]
                row = vars(own) | {"run": run, "name": name, "n": instances(name, result), "split": split}
                row["difference"] = interval(**asdict(difference)) if difference else None
                row["slots"] = f"{number(min(slots))} to {number(max(slots))}" if slots else None
                row |= {"score": scores[metric], "retrieval": retrieval}
                rows.append(row | {"rate": own.throughput.instances_per_second})
    columns = {"run": "{run}"} if len(runs) > 1 else {}
    columns |= {"": "`{name}`", "N": "{n}", "split": "{split}", metric: "{score}", "difference": "{difference}"}
    columns |= {"slots": "{slots}", "retrieval": "{retrieval}", "instances/s": "{rate:,.0f}"}
    columns |= {"x plain": "{ratio_to_plain:.2f}", "limit": "{limit:.2f}"}
    return f"{table(rows, columns)}\n\n{_COLUMNS}"


def section(record: dict) -> Iterator[str]:
    """``metrics.json`` in Markdown, for the terminal and the page of results."""
    result = of_json(RunResult, record)
    recipe, variants = result.settings["recipe"], result.variants
    size = f"{recipe['num_layers']} layers × {recipe['hidden_size']}"
    encoder = result.settings.get("encoder") or f"an encoder of {size}, from scratch"
    seed = f"; seed {result.settings['trainer']['seed']}" if "seed" in result.settings["trainer"] else ""
    yield (
        f"Task `{result.task}`, N = {recipe['num_instances']}, L = {recipe['max_length']}, {encoder}; "
        f"{result.data['train_rows']:,} training rows{seed}; {result.seconds:.0f} s in all."
    )
    smaller = {"shallow": "{shallow_layers} × {hidden_size}", "narrow": "{narrow_layers} × {narrow_size}"}
    if present := [f"`{name}` {size.format(**recipe)}" for name, size in smaller.items() if name in variants]:
        yield f"Smaller plain encoders: {', '.join(present)}."
    if any(own.throughput.slowest for own in variants.values()):
        yield "Speed is that of rows of full length through the library's engine, the plain encoder's as well."
    yield table_of({"": result})
    *_, last = result.data["evaluation_rows"]
    scores = {f"`{name}`": own.scores[last] for name, own in variants.items()}
    wanted = [(label, f"accuracy: {label}", f"f1: {label}") for label in result.data["labels"]]
    wanted += [("mean", "accuracy", "macro_f1"), ("micro F1", "micro_f1"), ("weighted F1 of tags", "weighted_f1")]
    rows = [
        [title, *(" / ".join(str(own[name]) for name in names) for own in scores.values())]
        for title, *names in wanted
        if all(name in own for own in scores.values() for name in names)
    ]
    if rows:
        several = "Accuracy / F1 of each label, at thresholds that were chosen on the first split. " * (len(rows) > 1)
        yield f"{several}On the split `{last}`:"
        yield markdown(["", *scores], rows)
    if result.sentences:
        yield "\n".join(f"- {sentence}" for sentence in result.sentences)


def comparison_section(result: dict) -> Iterator[str]:
    """``report.json`` in Markdown, for the page of results."""
    for task in result["tasks"]:
        yield f"Runs of the task `{task['task']}`, `python training/report.py RUN...`."
        yield task["table"]


def plot(path: Path, title: str, runs: dict[str, RunResult]) -> None:
    """Draws runs of one task as a PNG: learning curves and, of the last split, the score of each slot; of several runs
    also the score against N."""
    metric = next(iter(runs.values())).metric
    found = [(run, result, name, own) for run, result in runs.items() for name, own in result.variants.items()]
    styles = [{"label": f"{run}: {name}" if len(runs) > 1 else name} for run, _, name, _ in found]
    panels = []
    for stage, key, what in (
        ("retrieval", "eval_accuracy", "retrieval accuracy (held-out text)"),
        ("task", "loss", "training loss of the task stage"),
        ("task", f"eval_{metric}", f"{metric} (held-out)"),
    ):
        lines = [Line(curve(own, stage, key), style=style) for (*_, own), style in zip(found, styles, strict=True)]
        panels.append(Panel(lines, {"title": what, "xlabel": f"{stage} step"}))
    slots, by_variant = [], {}
    for (_, result, name, own), style in zip(found, styles, strict=True):
        split = list(own.scores)[-1]
        means = [slot.mean for slot in own.slots.get(split, [])]
        slots.append(Line(list(enumerate(means, 1)), [slot.std for slot in own.slots.get(split, [])], style=style))
        by_n = by_variant.setdefault(name, {})
        by_n.setdefault(instances(name, result), []).append(own.scores[split][metric].mean)
    panels.append(Panel(slots, {"title": f"{metric} of each slot", "xlabel": "slot"}))
    if len(runs) > 1:
        numbers = sorted({n for by_n in by_variant.values() for n in by_n})
        against = []
        for name, by_n in by_variant.items():
            over_runs = {n: Score.of(scores) for n, scores in sorted(by_n.items())}
            points = [(n, score.mean) for n, score in over_runs.items()]
            against.append(Line(points, [score.std for score in over_runs.values()], style={"label": name}))
        panels.append(Panel(against, {"title": f"{metric} against N", "xlabel": "N", "xticks": numbers}))
    draw(path, title, [panel for panel in panels if any(line.points for line in panel.lines)], (4.6, 3.6))


def curve(found: VariantResult, stage: str, key: str) -> list[tuple[int, float]]:
    """The values of a figure in a stage's log, over its steps."""
    log = found.stages[stage].log if stage in found.stages else []
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def read_runs(paths: list[str]) -> dict[str, RunResult]:
    """Reads finished runs, by the name of the folder, or of the file without its ending.

    Raises:
        ValueError: A path holds no finished run, or two have the same name.
    """
    runs: dict[str, RunResult] = {}
    for path in map(Path, paths):
        file = path if path.is_file() else RunFolder(path).metrics
        if not file.is_file():
            raise ValueError(f"{path} holds no {file.name}; expected the folder of a finished run of train.py")
        try:
            run = of_json(RunResult, read_json(file))
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is not what a run of train.py writes: {error!r}") from error
        name = path.stem if path.is_file() else path.resolve().name
        if name in runs:
            raise ValueError(f"two of the runs are named {name!r}, as {path} is: rename one of them")
        runs[name] = run
    return runs


def main(argv: list[str] | None = None) -> Path:
    """Writes the report of several runs, and returns its path.

    Raises:
        ValueError: A path holds no finished run, or the folder to write to holds one.
    """
    parser = options_of(__doc__, None)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="The folder of a finished run, or its metrics.json.")
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help="The folder to write.")
    options = parser.parse_args(argv)
    runs, folder = read_runs(options.runs), options.output_dir
    if (folder / SETTINGS).exists():
        raise ValueError(f"--output_dir {folder} holds a run; give another folder")
    parts, tasks = ["# Report"], []
    for task in dict.fromkeys(result.task for result in runs.values()):
        own = {name: result for name, result in runs.items() if result.task == task}
        plot(folder / f"{task}.png", "", own)
        tasks.append({"task": task, "table": table_of(own)})
        parts += [f"## {task}", tasks[-1]["table"], f"![{task}]({task}.png)"]
    write_json(folder / "report.json", {"environment": next(iter(runs.values())).environment, "tasks": tasks})
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(map(for_terminal, parts)) + f"\n\nwritten: {folder / 'report.md'}")
    return folder / "report.md"


if __name__ == "__main__":
    run_program(main)
