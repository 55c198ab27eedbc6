"""Pictures: panels beside each other with lines, error bars and names, as one PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastmux.searching.picture import Mark, picture, write_names


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
    with picture(path, len(panels), size) as (figure, axes):
        figure.suptitle(title, fontsize=10)
        for axis, panel in zip(axes, panels, strict=True):
            marks: list[Mark] = []
            for number, line in enumerate(line for line in panel.lines if line.points):
                style = {"color": f"C{number % 10}", "marker": ".", "capsize": 2, **line.style}
                axis.errorbar(*zip(*line.points, strict=True), line.spread, **style)
                named = zip(line.points, line.names, strict=False)
                marks += [Mark(x, y, y, y, name, color=str(style["color"])) for (x, y), name in named]
            axis.set(**panel.axis)
            axis.title.set_fontsize(10)
            axis.grid(alpha=0.3)
            if "xticks" in panel.axis:
                axis.minorticks_off()
            if axis.get_legend_handles_labels()[1]:
                axis.legend(fontsize=7, framealpha=0.6)
            write_names(figure, axis, marks)
