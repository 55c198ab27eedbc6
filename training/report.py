"""What a run ends with: tables and learning curves for the reader; the same figures, and more, for programs.

    python training/report.py runs/sst2 runs/sst2-2 runs/sst2-3      # several runs beside each other, in report/

writes report.md and report.json, with a table for each task, and TASK.png: accuracy against N, learning curves,
accuracy of each slot. A RUN is the folder of a finished run of train.py, or its metrics.json under another name.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fastmux.files import read_json, replacing, write_json
from training.figures import markdown, measured
from training.folders import RunFolder
from training.models import ALONE, PLAIN, SMALLER
from training.results import Difference, RunResult, Score, VariantResult


def write_report(result: RunResult, folder: RunFolder) -> None:
    """Writes metrics.json and the learning curves, prints the table."""
    recipe = result.settings["recipe"]
    title = f"{result.task}, N = {recipe['num_instances']}, L = {recipe['max_length']}"
    write_json(folder.metrics, asdict(result))
    plot_curves(folder.curves, result, title)
    print(f"\n{title}, {result.environment['device']}, {result.seconds:.0f} s in all")
    print(table(result))
    for more in (beside_plain(result), by_label(result)):
        if more:
            print("\n" + more)
    if result.sentences:
        print("\n" + "\n".join(result.sentences))
    print(f"\nwritten: {folder.metrics}, {folder.curves.name}, and models in VARIANT/task/model")


def what_it_bought(variants: dict[str, VariantResult], metric: str, split: str) -> list[str]:
    """A sentence for each multiplexed variant: its score and speed beside those of the smaller plain encoder that is
    closest to it in speed. None without such an encoder."""
    smaller = [name for name in SMALLER if name in variants]
    sentences = []
    for name, found in variants.items():
        if name in (PLAIN, *SMALLER) or not smaller:
            continue

        def times(rival: str, found: VariantResult = found) -> float:
            return found.throughput.instances_per_second / variants[rival].throughput.instances_per_second

        rival = min(smaller, key=lambda other: abs(math.log(times(other))))
        own, other = (variants[which].scores[split][metric].mean for which in (name, rival))
        sentences.append(
            f"{name} against {rival}, the smaller plain encoder that is closest in speed: {split} {metric} {own:.4f} "
            f"against {other:.4f}, {100 * (own - other):+.1f} points, at {times(rival):.2f} times its speed."
        )
    return sentences


def table(result: RunResult) -> str:
    """A row for each variant: retrieval accuracy, warmed up and at the end, scores, instances per second, limit."""
    splits = list(result.data["evaluation_rows"])
    header = [
        "",
        "retrieval, warmed up",
        "retrieval, at the end",
        *(f"{split} {result.metric}" for split in splits),
        "instances/s",
        "x plain",
        "limit",
    ]
    rows = [header]
    for name, found in result.variants.items():
        retrieval = (found.retrieval_accuracy_after_warm_up, found.retrieval_accuracy)
        scores = [found.scores[split][result.metric] for split in splits]
        rows.append(
            [
                name,
                *("-" if accuracy is None else f"{accuracy.mean:.4f}" for accuracy in retrieval),
                *map(score_cell, scores),
                f"{found.throughput.instances_per_second:.0f}",
                "-" if found.ratio_to_plain is None else f"{found.ratio_to_plain:.2f}",
                f"{found.limit:.2f}",
            ]
        )
    return aligned(rows)


def beside_plain(result: RunResult) -> str:
    """A row for each multiplexed variant and split: the metric less the plain encoder's, and that of its slots."""
    rows = [["", "split", f"{result.metric} less plain's", "95 % interval", "lowest slot", "highest slot"]]
    for name, found in result.variants.items():
        for split in found.scores:
            difference, slots = found.difference_to_plain.get(split), found.slots.get(split)
            if difference or slots:
                rows.append([name, split, *difference_cells(difference), *slot_cells(slots)])
    return aligned(rows) if len(rows) > 1 else ""


def by_label(result: RunResult) -> str:
    """Of a multi-label task, accuracy and F1 of each label on the last split, and their means."""
    split = list(result.data["evaluation_rows"])[-1]
    if not all("micro_f1" in found.scores[split] for found in result.variants.values()):
        return ""
    rows = [[split, *(f"{name} {what}" for name in result.variants for what in ("accuracy", "F1"))]]
    named = [(label, f"accuracy: {label}", f"f1: {label}") for label in result.data["labels"]]
    for title, *scores in (*named, ("mean; macro F1", "accuracy", "macro_f1"), ("micro F1", None, "micro_f1")):
        cells = [score_cell(v.scores[split][s]) if s else "" for v in result.variants.values() for s in scores]
        rows.append([title, *cells])
    return aligned(rows)


def score_cell(score: Score) -> str:
    return measured(score.mean, score.std)


def difference_cells(difference: Difference | None) -> list[str]:
    """The difference and its interval."""
    if difference is None:
        return ["-", "-"]
    return [f"{difference.mean:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}"]


def slot_cells(slots: list[Score] | None) -> list[str]:
    """The lowest and the highest slot's score."""
    return [f"{choose(slot.mean for slot in slots):.4f}" if slots else "-" for choose in (min, max)]


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells under the first one, which is the header; all columns but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in (rows[0], ["-" * width for width in widths], *rows[1:]):
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def plot_curves(path: Path, result: RunResult, title: str) -> None:
    """Draws warm-up retrieval accuracy, task loss and task score of every variant over optimizer steps, as a PNG."""
    panels = [
        ("retrieval", "eval_accuracy", "retrieval accuracy (held-out text)", "warm-up step"),
        ("task", "loss", "training loss of the task stage", "task step"),
        ("task", f"eval_{result.metric}", f"{result.metric} (held-out)", "task step"),
    ]
    figure, axes = new_figure(1, len(panels), figsize=(4.6 * len(panels), 3.6))
    for axis, (stage, key, label, steps) in zip(axes, panels, strict=True):
        for color, (name, found) in enumerate(result.variants.items()):
            log = found.stages[stage].log if stage in found.stages else []
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                marker = "." if "eval" in key else None
                axis.plot(*zip(*points, strict=True), color=f"C{color}", marker=marker, label=name)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel(steps)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend()
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def new_figure(*shape: int, figsize: tuple[float, float]):
    """A Matplotlib figure, which needs no display, and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(*shape, figsize=figsize, layout="constrained")


def save_figure(figure, path: Path) -> None:
    """Writes a figure, whole or not at all, and closes it."""
    from matplotlib import pyplot

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def read_runs(paths: list[str]) -> dict[str, RunResult]:
    """Finished runs by name: of the folder, or of the file without its ending.

    Raises:
        ValueError: there is none, or two have one name.
    """
    runs: dict[str, RunResult] = {}
    for path in map(Path, paths):
        file = path if path.is_file() else RunFolder(path).metrics
        try:
            run = RunResult.from_dict(read_json(file))
        except OSError as error:
            raise ValueError(
                f"{path} holds no {file.name}; expected the folder of a finished run of train.py"
            ) from error
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is not what a run of train.py writes: {error!r}") from error
        name = path.stem if path.is_file() else path.resolve().name
        if name in runs:
            raise ValueError(f"two of the runs are named {name!r}, as {path} is: rename one of them")
        runs[name] = run
    return runs


def comparison(runs: dict[str, RunResult]) -> list[dict[str, object]]:
    """Of runs of one task, a record for each run, variant and split."""
    metric = next(iter(runs.values())).metric
    return [
        {
            "run": run,
            "variant": name,
            "num_instances": 1 if name in ALONE else result.settings["recipe"]["num_instances"],
            "split": split,
            "score": asdict(scores[metric]),
            "difference_to_plain": asdict(found.difference_to_plain[split])
            if split in found.difference_to_plain
            else None,
            "slots": [slot.mean for slot in found.slots.get(split, [])],
            "retrieval": found.retrieval_accuracy.mean if found.retrieval_accuracy else None,
            "instances_per_second": found.throughput.instances_per_second,
            "ratio_to_plain": found.ratio_to_plain,
        }
        for run, result in runs.items()
        for name, found in result.variants.items()
        for split, scores in found.scores.items()
    ]


def comparison_table(records: list[dict], metric: str) -> str:
    """The records of `comparison` as a Markdown table."""
    header = ["run", "variant", "N", "split", metric, "less plain's (95 % interval)", "slots", "retrieval"]
    lines = []
    for r in records:
        difference = r["difference_to_plain"] and Difference(**r["difference_to_plain"])
        lines.append(
            [
                r["run"],
                r["variant"],
                str(r["num_instances"]),
                r["split"],
                score_cell(Score(**r["score"])),
                "{} ({})".format(*difference_cells(difference)) if difference else "-",
                f"{min(r['slots']):.4f} to {max(r['slots']):.4f}" if r["slots"] else "-",
                "-" if r["retrieval"] is None else f"{r['retrieval']:.4f}",
                f"{r['instances_per_second']:.0f}",
                "-" if r["ratio_to_plain"] is None else f"{r['ratio_to_plain']:.2f}",
            ]
        )
    return markdown([*header, "instances/s", "x plain"], lines)


def plot_runs(path: Path, runs: dict[str, RunResult]) -> None:
    """Draws runs of one task: the metric of the last split against N, learning curves, and the metric of each slot."""
    metric = next(iter(runs.values())).metric
    figure, (against, curves, slots) = new_figure(1, 3, figsize=(14.4, 4.0))
    by_variant: dict[str, dict[int, list[float]]] = {}
    for run, result in runs.items():
        n = result.settings["recipe"]["num_instances"]
        for name, found in result.variants.items():
            split = list(found.scores)[-1]
            score = found.scores[split][metric].mean
            by_variant.setdefault(name, {}).setdefault(1 if name in ALONE else n, []).append(score)
            log = found.stages["task"].log if "task" in found.stages else []
            points = [(entry["step"], entry[f"eval_{metric}"]) for entry in log if f"eval_{metric}" in entry]
            if points:
                curves.plot(*zip(*points, strict=True), marker=".", label=f"{run}: {name}")
            if own := found.slots.get(split):
                places, means = range(1, len(own) + 1), [slot.mean for slot in own]
                slots.errorbar(places, means, [slot.std for slot in own], marker="o", capsize=3, label=f"{run}: {name}")
    for name, scores in by_variant.items():
        places = sorted(scores)
        spread = [statistics.stdev(scores[n]) if len(scores[n]) > 1 else 0.0 for n in places]
        means = [statistics.fmean(scores[n]) for n in places]
        against.errorbar(places, means, spread, marker="o", capsize=3, label=name)
    for axis, title, label in (
        (against, f"{metric} against N", "N"),
        (curves, f"{metric} (held-out) in the task stage", "task step"),
        (slots, f"{metric} of each slot", "slot"),
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=6, framealpha=0.6)
        else:
            axis.set_axis_off()
    against.xaxis.get_major_locator().set_params(integer=True)
    slots.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> Path:
    """Writes the report of several runs; returns its path.

    Raises:
        ValueError: a run that is none, or a folder that holds one.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or its metrics.json")
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help="folder to write (report)")
    options = parser.parse_args(argv)
    runs = read_runs(options.runs)
    if RunFolder(options.output_dir).settings.exists():
        raise ValueError(f"--output_dir {options.output_dir} holds a run; give another folder")
    parts, tasks = ["# Report"], []
    for task in dict.fromkeys(result.task for result in runs.values()):
        own = {name: result for name, result in runs.items() if result.task == task}
        metric = next(iter(own.values())).metric
        plot_runs(options.output_dir / f"{task}.png", own)
        records = comparison(own)
        compared = comparison_table(records, metric)
        tasks.append({"task": task, "metric": metric, "records": records, "table": compared})
        parts += [f"## {task}", compared, f"![{task}]({task}.png)"]
    environment = next(iter(runs.values())).environment
    write_json(options.output_dir / "report.json", {"environment": environment, "tasks": tasks})
    report = options.output_dir / "report.md"
    with replacing(report) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts) + f"\n\nwritten: {report}")
    return report


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
