"""A run in pictures: its learning curves, and its accuracy against speed."""

from __future__ import annotations

from pathlib import Path

from fastmux.files import replacing


def plot_curves(path: Path, variants: dict[str, dict], metric: str, title: str) -> None:
    """Draws warm-up retrieval accuracy, task loss and task score of every variant over optimizer steps.

    Args:
        path: PNG to write.
        variants: by name, ``{"retrieval": log | None, "task": log}``, the ``log_history`` of the Trainer for
            each stage.
        metric: name of the task's score.
        title: of the figure.
    """
    pyplot = _pyplot()
    panels = [
        ("retrieval", "eval_accuracy", "retrieval accuracy (held-out text)", "warm-up step"),
        ("task", "loss", "training loss (task and 0.1 retrieval)", "task step"),
        ("task", f"eval_{metric}", f"{metric} (held-out)", "task step"),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axis, (stage, key, label, steps) in zip(axes, panels, strict=True):
        for color, (name, stages) in enumerate(variants.items()):
            points = [(entry["step"], entry[key]) for entry in stages.get(stage) or [] if key in entry]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=f"C{color}",
                    marker="." if "eval" in key else None,
                    label=name,
                )
        axis.set_title(label, fontsize=10)
        axis.set_xlabel(steps)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend()
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def plot_copies(path: Path, records: list[dict]) -> None:
    """Draws accuracy over instances per second, a line for each variant; records as `training.copies.measure` has
    them."""
    figure, axis = _pyplot().subplots(figsize=(5.4, 3.8), layout="constrained")
    for color, name in enumerate(dict.fromkeys(record["variant"] for record in records)):
        own = [record for record in records if record["variant"] == name]
        rates, scores, spread = (
            [record[key] for record in own] for key in ("instances_per_second", "accuracy", "accuracy_std")
        )
        axis.errorbar(rates, scores, yerr=spread, color=f"C{color}", marker="o", capsize=3, label=name)
        for record in own:
            point = (record["instances_per_second"], record["accuracy"])
            axis.annotate(f"{record['copies']}x", point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axis.set_xlabel("instances per second")
    axis.set_ylabel("accuracy")
    axis.set_title("copies of each row in a group", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    _pyplot().close(figure)
