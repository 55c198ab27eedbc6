"""What a run ends with: tables and learning curves for the reader; the same numbers, and more, for programs.

    python training/report.py runs/sst2 runs/sst2-2 runs/sst2-3      # several runs beside each other, in report/

writes report.md and report.json, with a table for each task, and TASK.png: accuracy against N, learning curves,
accuracy of each slot. A RUN is the folder of a finished run of train.py, or its metrics.json under another name.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fastmux.files import read_json, replacing, write_json
from training.drawing import Line, Panel, draw
from training.folders import SETTINGS, RunFolder
from training.formatting import for_terminal, interval, markdown, number, score
from training.models import ALONE, PLAIN, SMALLER
from training.results import RunResult, Score, VariantResult, of_json
from training.settings import run_program


def write_report(result: RunResult, folder: RunFolder) -> None:
    """Writes metrics.json and the learning curves, prints the tables."""
    record = asdict(result)
    write_json(folder.metrics, record)
    plot_curves(folder.curves, result)
    print("\n" + "\n\n".join(map(for_terminal, section(record))))
    print(f"\nwritten: {folder.metrics}, {folder.curves.name}, and models in VARIANT/task/model")


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


def section(result: dict) -> Iterator[str]:
    """``metrics.json`` in Markdown, for the terminal and the page of results."""
    recipe, metric, variants = result["settings"]["recipe"], result["metric"], result["variants"]
    splits = list(result["data"]["evaluation_rows"])
    size = f"{recipe['num_layers']} layers × {recipe['hidden_size']}"
    encoder = result["settings"].get("encoder") or f"an encoder of {size}, from scratch"
    seed = f"; seed {result['settings']['trainer']['seed']}" if "seed" in result["settings"]["trainer"] else ""
    yield (
        f"Task `{result['task']}`, N = {recipe['num_instances']}, L = {recipe['max_length']}, {encoder}; "
        f"{result['data']['train_rows']:,} training rows{seed}; {result['seconds']:.0f} s in all."
    )
    smaller = {"shallow": "{shallow_layers} × {hidden_size}", "narrow": "{narrow_layers} × {narrow_size}"}
    if present := [f"`{name}` {size.format(**recipe)}" for name, size in smaller.items() if name in variants]:
        yield f"Smaller plain encoders: {', '.join(present)}."
    if any(own["throughput"].get("slowest") for own in variants.values()):
        yield "Speed is that of rows of full length through the library's engine, the plain encoder's as well."
    named = {name: name if name == PLAIN else f"`{name}`" for name in variants}
    rows, differences = [], []
    for name, own in variants.items():
        ratio = own["ratio_to_plain"]
        retrieval = (score(own[f"retrieval_accuracy{when}"]) for when in ("_after_warm_up", ""))
        scores = (score(own["scores"][split][metric]) for split in splits)
        speed = (f"{own['throughput']['instances_per_second']:,.0f}", "-" if ratio is None else f"{ratio:.2f}")
        rows.append([named[name], *retrieval, *scores, *speed, f"{own['limit']:.2f}"])
        for split, found in own.get("difference_to_plain", {}).items():
            slots = " / ".join(number(slot["mean"]) for slot in own["slots"].get(split, [])) or "-"
            differences.append([named[name], split, interval(**found), slots])
    columns = ["retrieval, warmed up", "at the end", *(f"{split} {metric}" for split in splits)]
    yield markdown(["", *columns, "instances/s", "x plain", "limit"], rows)
    if differences:
        header = ["", "split", f"{metric} less plain's (95 %, rows drawn anew)", "slot by slot"]
        yield markdown(header, differences)
    last = {name: own["scores"][splits[-1]] for name, own in variants.items()}
    if all("micro_f1" in own for own in last.values()):
        yield (
            f"Accuracy / F1 of each label on the split `{splits[-1]}`, at thresholds that were chosen on the first "
            "split:"
        )
        wanted = [(label, f"accuracy: {label}", f"f1: {label}") for label in result["data"]["labels"]]
        wanted += [("mean", "accuracy", "macro_f1"), ("micro F1", "micro_f1")]
        cells = [
            [title, *(" / ".join(score(own[n]) for n in names) for own in last.values())] for title, *names in wanted
        ]
        yield markdown(["", *named.values()], cells)
    if all("weighted_f1" in own["scores"][split] for own in variants.values() for split in splits):
        yield "F1 of the tokens' tags, weighted by how often each tag occurs:"
        weighted = [[name, *(score(own["scores"][s]["weighted_f1"]) for s in splits)] for name, own in variants.items()]
        yield markdown(["", *splits], weighted)
    if result.get("sentences"):
        yield "\n".join(f"- {sentence}" for sentence in result["sentences"])


def plot_curves(path: Path, result: RunResult) -> None:
    """Draws warm-up retrieval accuracy, task loss and task score of every variant over optimizer steps, as a PNG."""
    panels = [
        ("retrieval", "eval_accuracy", "retrieval accuracy (held-out text)", "warm-up step"),
        ("task", "loss", "training loss of the task stage", "task step"),
        ("task", f"eval_{result.metric}", f"{result.metric} (held-out)", "task step"),
    ]
    lines = [
        [Line(curve(own, stage, key), style={"label": name}) for name, own in result.variants.items()]
        for stage, key, *_ in panels
    ]
    axes = [{"title": title, "xlabel": steps} for *_, title, steps in panels]
    recipe = result.settings["recipe"]
    title = f"{result.task}, N = {recipe['num_instances']}, L = {recipe['max_length']}"
    draw(path, title, [Panel(*both) for both in zip(lines, axes, strict=True)], (4.6, 3.6))


def curve(found: VariantResult, stage: str, key: str) -> list[tuple[int, float]]:
    """What a stage's log has of a figure, over its steps."""
    log = found.stages[stage].log if stage in found.stages else []
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def read_runs(paths: list[str]) -> dict[str, RunResult]:
    """Finished runs by name: of the folder, or of the file without its ending.

    Raises:
        ValueError: There is none, or two have one name.
    """
    runs: dict[str, RunResult] = {}
    for path in map(Path, paths):
        file = path if path.is_file() else RunFolder(path).metrics
        try:
            run = of_json(RunResult, read_json(file))
        except OSError as error:
            raise ValueError(
                f"{path} holds no {file.name}; expected the folder of a finished run of train.py"
            ) from error
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is not what a run of train.py writes: {error!r}") from error
        name = path.stem if path.is_file() else path.resolve().name
        if name in runs:
            raise ValueError(f"two of the runs are named {name!r}, as {path} is: rename one of them")
        runs[name] = run
    return runs


def instances(variant: str, result: RunResult) -> int:
    """N of a variant."""
    return 1 if variant in ALONE else result.settings["recipe"]["num_instances"]


def comparison(runs: dict[str, RunResult]) -> tuple[list[dict[str, object]], str]:
    """Of runs of one task, a record for each run, variant and split; and their table."""
    records, rows, metric = [], [], next(iter(runs.values())).metric
    for run, result in runs.items():
        for name, own in result.variants.items():
            for split, scores in own.scores.items():
                difference, slots = own.difference_to_plain.get(split), [s.mean for s in own.slots.get(split, [])]
                record = {"run": run, "variant": name, "num_instances": instances(name, result), "split": split}
                retrieval, rate = own.retrieval_accuracy, own.throughput.instances_per_second
                more = {
                    "score": asdict(scores[metric]),
                    "difference_to_plain": asdict(difference) if difference else None,
                    "slots": slots,
                    "retrieval": retrieval.mean if retrieval else None,
                    "instances_per_second": rate,
                    "ratio_to_plain": own.ratio_to_plain,
                }
                records.append({**record, **more})
                less = interval(**asdict(difference)) if difference else "-"
                between = f"{min(slots):.4f} to {max(slots):.4f}" if slots else "-"
                ratio = "-" if own.ratio_to_plain is None else f"{own.ratio_to_plain:.2f}"
                cells = [score(more["score"]), less, between, number(more["retrieval"]), f"{rate:.0f}", ratio]
                rows.append([*map(str, record.values()), *cells])
    header = ["run", "variant", "N", "split", metric, "less plain's (95 % interval)", "slots", "retrieval"]
    return records, markdown([*header, "instances/s", "x plain"], rows)


def comparison_section(result: dict) -> Iterator[str]:
    """``report.json`` in Markdown, for the page of results."""
    for task in result["tasks"]:
        yield f"Runs of the task `{task['task']}`, `python training/report.py RUN...`."
        yield task["table"]


def plot_runs(path: Path, runs: dict[str, RunResult]) -> None:
    """Draws runs of one task: the metric of the last split against N, learning curves, and the metric of each slot."""
    metric = next(iter(runs.values())).metric
    by_variant: dict[str, dict[int, list[float]]] = {}
    curves, slots = [], []
    for run, result in runs.items():
        for name, own in result.variants.items():
            split, style = list(own.scores)[-1], {"label": f"{run}: {name}"}
            scores = by_variant.setdefault(name, {}).setdefault(instances(name, result), [])
            scores.append(own.scores[split][metric].mean)
            curves.append(Line(curve(own, "task", f"eval_{metric}"), style=style))
            found = own.slots.get(split, [])
            points = [(place, slot.mean) for place, slot in enumerate(found, 1)]
            slots.append(Line(points, [slot.std for slot in found], style=style))
    against = []
    for name, by_n in by_variant.items():
        over_runs = {n: Score.of(scores) for n, scores in sorted(by_n.items())}
        points = [(n, found.mean) for n, found in over_runs.items()]
        against.append(Line(points, [found.std for found in over_runs.values()], style={"label": name}))
    numbers = sorted({n for by_n in by_variant.values() for n in by_n})
    panels = [
        Panel(against, {"title": f"{metric} against N", "xlabel": "N", "xticks": numbers}),
        Panel(curves, {"title": f"{metric} (held-out) in the task stage", "xlabel": "task step"}),
        Panel(slots, {"title": f"{metric} of each slot", "xlabel": "slot"}),
    ]
    draw(path, "", panels, (4.8, 4.0))


def main(argv: list[str] | None = None) -> Path:
    """Writes the report of several runs; returns its path.

    Raises:
        ValueError: A run is none, or the folder to write holds one.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run, or its metrics.json")
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help="folder to write (report)")
    options = parser.parse_args(argv)
    runs, folder = read_runs(options.runs), options.output_dir
    if (folder / SETTINGS).exists():
        raise ValueError(f"--output_dir {folder} holds a run; give another folder")
    parts, tasks = ["# Report"], []
    for task in dict.fromkeys(result.task for result in runs.values()):
        own = {name: result for name, result in runs.items() if result.task == task}
        plot_runs(folder / f"{task}.png", own)
        records, table = comparison(own)
        metric = next(iter(own.values())).metric
        tasks.append({"task": task, "metric": metric, "records": records, "table": table})
        parts += [f"## {task}", table, f"![{task}]({task}.png)"]
    write_json(folder / "report.json", {"environment": next(iter(runs.values())).environment, "tasks": tasks})
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(map(for_terminal, parts)) + f"\n\nwritten: {folder / 'report.md'}")
    return folder / "report.md"


if __name__ == "__main__":
    run_program(main)
