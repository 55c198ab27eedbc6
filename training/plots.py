"""The learning curves of a run as one picture."""

from __future__ import annotations

from pathlib import Path

from training.files import replacing


def plot_curves(path: Path, variants: dict[str, dict], metric: str, title: str) -> None:
    """Draws warm-up retrieval accuracy, task loss and task score of every variant over optimizer steps.

    Args:
        path: PNG to write.
        variants: by name, ``{"retrieval": log | None, "task": log}``, the ``log_history`` of the Trainer for
            each stage.
        metric: name of the task's score.
        title: of the figure.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
