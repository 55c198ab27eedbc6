"""A picture of agreement over speed: points, the front, and names that do not overlap."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmux.files import replacing
from fastmux.searching.forms import ORIGINAL
from fastmux.searching.need import Need
from fastmux.searching.points import Point
from fastmux.searching.verdict import on_front

#: Places for a name beside its point, in points of type: right, left, above, below, then further away.
_PLACES = [
    (side * dx, dy, "left" if side > 0 else "right")
    for dy, dx, side in itertools.product((3, -9, 14, -20, 26, -32, 40, -46, 56, -62), (5,), (1, -1))
]
_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Mark:
    """A model in the picture.

    Attributes:
        x, y: Its speed and what is over it.
        low, high: The ends of the interval of y.
        name: Its name; "" for none.
        color, shape: As Matplotlib takes them.
        front: Whether it is on the front, through which a line goes.
    """

    x: float
    y: float
    low: float
    high: float
    name: str = ""
    color: str = "0.35"
    shape: str = "o"
    front: bool = False


@contextlib.contextmanager
def picture(path: Path, panels: int, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, beside each other; at the end of the block they are a PNG, whole or not at all.

    Args:
        size: The size of one pair of axes, in inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width, height = size
    figure, axes = pyplot.subplots(1, panels, figsize=(panels * width, height), layout="constrained", squeeze=False)
    yield figure, axes[0]
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def draw(path: Path, marks: Sequence[Mark], title: str, ylabel: str, level: tuple[str, float] | None = None) -> None:
    """Write a picture, whole or not at all.

    Args:
        marks: The models.
        level: What is asked for: ("x", a speed) or ("y", a share); it gets a dotted line.
    """
    with picture(path, 1, (8.0, 5.0)) as (figure, (axis,)):
        front = sorted((mark.x, mark.y) for mark in marks if mark.front)
        axis.plot(*zip(*front, strict=True), color="C0", alpha=0.5, drawstyle="steps-pre", label="the front")
        for mark in marks:
            error = [[max(0.0, mark.y - mark.low)], [max(0.0, mark.high - mark.y)]]
            style: dict[str, Any] = {
                "color": mark.color,
                "marker": mark.shape,
                "ms": 6,
                "lw": 0,
                "elinewidth": 0.8,
                "capsize": 2,
            }
            axis.errorbar([mark.x], [mark.y], error, **style)
        if level is not None:
            line = axis.axvline if level[0] == "x" else axis.axhline
            line(level[1], color="0.6", ls=":", label="what is asked for")
        axis.set_xscale("log")
        top = max(mark.x for mark in marks)
        least = min(mark.x for mark in marks)
        ticks = [t for t in _TICKS if least / 1.5 <= t <= top * 1.5]
        axis.set(
            xlabel="times as fast as the original, through the same engine",
            ylabel=ylabel,
            xlim=(least / 1.2, top * 1.6),
        )
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower left")
        axis.set_title(title, fontsize=10)
        write_names(figure, axis, marks)


def write_names(figure: Any, axis: Any, marks: Sequence[Mark]) -> list[Any]:
    """Put each name where it covers no other name and no point; returns the texts."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure.canvas.draw()  # sizes are known from here on
    renderer = figure.canvas.get_renderer()
    spots = [axis.transData.transform((mark.x, mark.y)) for mark in marks]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    if (legend := axis.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    names = []
    for mark in sorted((mark for mark in marks if mark.name), key=lambda mark: -mark.y):
        for dx, dy, align in _PLACES:
            text = axis.annotate(
                mark.name,
                (mark.x, mark.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=align,
                fontsize=8,
                color=mark.color,
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.6"} if abs(dy) > 12 else None,
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line to the point
            inside = (
                axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1 and axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1
            )
            if inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            continue  # no room: the table has it
        taken.append(box)
        names.append(text)
    return names


def draw_points(path: Path, points: Sequence[Point], chosen: Point, need: Need) -> None:
    """The picture of a search: what is on the front and what was chosen has a name."""
    marks = []
    for point in points:
        front = on_front(point, points)
        named = front or point == chosen or point.name == ORIGINAL
        low, high = point.agreement.interval()
        color = "C2" if point == chosen else "C3" if point.multiplexed else "0.35"
        name = point.name if named else ""
        shape = "*" if point == chosen else "s" if point.cascade else "o"
        marks.append(Mark(point.speed_up, point.agreement.mean, low, high, name, color, shape, front))
    level = ("x", need.speedup) if need.agreement is None else ("y", need.agreement)
    title = f"{len(points)} models; star: chosen, red: multiplexed"
    title += "" if need.kind.embeds else ", square: with the original behind"
    draw(path, marks, title, need.kind.axis, level)
