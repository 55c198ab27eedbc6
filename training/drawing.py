"""Pictures: panels beside each other with lines, error bars and names, as one PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastmux.files import replacing


@dataclass(frozen=True)
class Line:
    """A line of a panel, or points.

    Attributes:
        points: The points (x, y).
        spread: The length of each point's error bar.
        names: A name beside each point; "" for none.
        style: Further arguments of Matplotlib's ``errorbar``, such as ``label``.
    """

    points: Sequence[tuple[float, float]]
    spread: Sequence[float] | None = None
    names: Sequence[str] = ()
    style: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Lines on one pair of axes.

    Attributes:
        lines: The lines, in the order of their colours.
        axis: The arguments of Matplotlib's ``Axes.set``: ``title``, ``xlabel``, ``xscale`` and so on.
    """

    lines: Iterable[Line]
    axis: dict[str, object]


def draw(path: Path, title: str, panels: Sequence[Panel], size: tuple[float, float] = (5.0, 4.0)) -> None:
    """Write a picture, whole or not at all; ``size`` is that of a panel, in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(size[0] * len(panels), size[1]), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for number, line in enumerate(line for line in panel.lines if line.points):
            style = {"color": f"C{number % 10}", "marker": ".", "capsize": 2, **line.style}
            axis.errorbar(*zip(*line.points, strict=True), line.spread, **style)
            for name, point in zip(line.names, line.points, strict=False):
                axis.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set(**panel.axis)
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
        if "xticks" in panel.axis:
            axis.minorticks_off()
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7, framealpha=0.6)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
