"""What a front says: which models are on it, a sentence computed from the numbers, a table and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fastmux.searching.picture import Mark, draw
from fastmux.searching.verdict import unbeaten
from fastmux.training.formatting import markdown, measured, number
from fastmux.training.fronts.measure import Point


def on_front(point: Point, others: Sequence[Point]) -> bool:
    """Whether none of the others is at least as good and as fast, and better in one of both."""
    return unbeaten(_place(point), map(_place, others))


def _place(point: Point) -> tuple[float, float]:
    return point.score.mean, point.rows_per_second


def margin(point: Point, plain: Sequence[Point]) -> tuple[float, Point | None]:
    """How much better a T-MUX scores than the best plain model of at least its speed, and which that is."""
    rivals = [other for other in plain if other.rows_per_second >= point.rows_per_second]
    if not rivals:
        return float("inf"), None
    best = max(rivals, key=lambda other: other.score.mean)
    return point.score.mean - best.score.mean, best


def sentence(points: Sequence[Point]) -> str:
    """Whether a T-MUX is on the front that the plain models draw, and by how much."""
    plain = [point for point in points if not point.multiplexed]
    muxes = [point for point in points if point.multiplexed]
    if not muxes:
        return "There is no T-MUX among the candidates."
    ahead = [point for point in muxes if on_front(point, plain)]
    if not ahead:
        nearest = max(muxes, key=lambda point: margin(point, plain)[0])
        lost, rival = margin(nearest, plain)
        return (
            f"No T-MUX is on the front: the nearest, {_named(nearest)}, is {-100 * lost:.1f} points behind "
            f"{_named(rival)}, which is as fast or faster."
        )
    parts = []
    for point in sorted(ahead, key=lambda point: point.rows_per_second):
        won, rival = margin(point, plain)
        than = "faster than every plain model" if rival is None else f"{100 * won:.1f} points above {_named(rival)}"
        parts.append(f"{_named(point)}, {than}")
    return "On the front: " + "; ".join(parts) + "."


def _named(point: Point) -> str:
    return f"{point.name} ({point.score.mean:.4f} at {point.speed_up:.2f} x)"


def table(points: Sequence[Point], metric: str) -> str:
    """A Markdown table, the fastest last; a star marks what no other is both as good and as fast as."""
    header = ["front", "model", metric, "same labels", "instances/s", "x original, same engine"]
    rows = []
    for point in sorted(points, key=lambda point: point.rows_per_second):
        alone = not point.cascade
        rows.append(
            [
                "*" if on_front(point, points) else "",
                point.name + (" (T-MUX)" if point.multiplexed else ""),
                measured(point.score.mean, point.score.std),
                number(point.agreement),
                f"{point.rows_per_second:.0f}",
                f"{point.speed_up:.2f}",
                f"{point.speed_up_forward:.2f}",
                "" if point.fallback is None else f"{point.fallback:.2f}",
                f"{point.parameters / 1e6:.1f} M" if alone else "",
                f"{point.seconds:.0f}" if alone and point.seconds is not None else "",
            ]
        )
    return markdown([*header, "x original, forward of Hugging Face's", "falls back", "parameters", "trained, s"], rows)


def section(result: dict) -> Iterator[str]:
    """``front.json`` in Markdown, for the page of results."""
    settings, rows = result["settings"], result["rows"]
    given = " ".join(f"--{name} {value}" for name, value in settings.items() if value is not None)
    yield (
        f"Task `{result['task']}`, {settings['encoder']}; {rows['train']:,} training rows, "
        f"{settings['num_train_epochs']:g} epochs of distillation, {rows['evaluation']:,} rows scored; cascades at "
        f"{settings['target_agreement']:.0%} agreement with the original; {settings['clock']} clock. "
        f"`python training/front.py {given}`, of files and folders the names."
    )
    yield result["table"]
    yield f"**{result['sentence']}**"


def plot(path: Path, points: Sequence[Point], title: str, metric: str) -> None:
    """Score over speed. What is on the front has a name, and so has what is on that of the plain models."""
    plain, marks = [point for point in points if not point.multiplexed], []
    for point in points:
        front, mean, std = on_front(point, points), point.score.mean, point.score.std
        named = front or (not point.multiplexed and on_front(point, plain))
        color, shape = "C3" if point.multiplexed else "0.35", "s" if point.cascade else "o"
        name = point.name if named else ""
        marks.append(Mark(point.speed_up, mean, mean - std, mean + std, name, color, shape, front))
    draw(path, marks, f"{title}; red: T-MUX, squares: the original behind", metric)
