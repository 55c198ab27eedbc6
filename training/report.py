"""What a run ends with: a table and learning curves for the reader; the same figures, and more, for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from fastmux.files import replacing, write_json
from training.folders import RunFolder
from training.models import PLAIN, SMALLER
from training.results import RunResult, VariantResult


def write_report(result: RunResult, folder: RunFolder) -> None:
    """Writes metrics.json and the learning curves, prints the table."""
    recipe = result.settings["recipe"]
    title = f"{result.task}, N = {recipe['num_instances']}, L = {recipe['max_length']}"
    write_json(folder.metrics, asdict(result))
    plot_curves(folder.curves, result, title)
    print(f"\n{title}, {result.environment['device']}, {result.seconds:.0f} s in all")
    print(table(result))
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
                *(f"{score.mean:.4f}" + (f" ± {score.std:.4f}" if score.std else "") for score in scores),
                f"{found.throughput.instances_per_second:.0f}",
                "-" if found.ratio_to_plain is None else f"{found.ratio_to_plain:.2f}",
                f"{found.limit:.2f}",
            ]
        )
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """Rows as lines of a table, the first one its header, the columns behind the first one aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = []
    for first, *others in rows:
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
