"""What a front says: which models are on it, a sentence computed from the numbers, a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fastmux.searching.picture import Mark, draw
from fastmux.searching.verdict import unbeaten
from fastmux.training.formatting import Cell, table
from fastmux.training.fronts.candidates import ORIGINAL
from fastmux.training.fronts.measure import Measured, Point

#: Times the original's speed at which models are compared, and the share of it that is near enough: two runs of one
#: model differ as much.
SPEEDS, AS_FAST = (2, 4, 8), 0.97
#: What is compared: the score of a point.
Worth = Callable[[Measured], float]


def score_of(point: Point) -> float:
    """What a front of a task compares."""
    return point.score.mean


def on_front(point: Measured, others: Sequence[Measured], worth: Worth = score_of) -> bool:
    """Whether none of the others is at least as good and as fast, and better in one of both."""
    own, *rest = ((worth(one), one.rows_per_second) for one in (point, *others))
    return unbeaten(own, rest)


def margin(point: Point, plain: Sequence[Point]) -> tuple[float, Point | None]:
    """How much better a T-MUX scores than the best plain model of at least its speed, and which that is."""
    rivals = [other for other in plain if other.rows_per_second >= point.rows_per_second]
    if not rivals:
        return float("inf"), None
    best = max(rivals, key=score_of)
    return score_of(point) - score_of(best), best


def sentence(points: Sequence[Point]) -> str:
    """Which T-MUXes are beyond the front that the plain models draw, and by how much."""
    plain = [point for point in points if not point.multiplexed]
    muxes = [point for point in points if point.multiplexed]
    if not muxes:
        return "There is no T-MUX among the candidates."
    ahead = [point for point in muxes if on_front(point, plain)]
    if not ahead:
        nearest = max(muxes, key=lambda point: margin(point, plain)[0])
        lost, rival = margin(nearest, plain)
        return (
            f"No T-MUX is beyond the front of the plain models: the nearest, {_named(nearest)}, is {-100 * lost:.1f} "
            f"points behind {_named(rival)}, which is as fast or faster."
        )
    parts = []
    for point in sorted(ahead, key=lambda point: point.rows_per_second):
        won, rival = margin(point, plain)
        than = "faster than every plain model" if rival is None else f"{100 * won:.1f} points above {_named(rival)}"
        parts.append(f"{_named(point)}, {than}")
    return "Beyond the front of the plain models: " + "; ".join(parts) + "."


def _named(point: Point) -> str:
    return f"{point.name} ({point.score.mean:.4f} at {point.speed_up:.2f} x)"


def table_of(
    points: Sequence[Measured], columns: dict[str, Cell], more: dict[str, Cell], word: str, worth: Worth = score_of
) -> str:
    """A Markdown table, the fastest last; a star marks what no other is both as good and as fast as.

    Args:
        columns: Behind the model's name; a cell is of the values of its point.
        more: Behind the speed over the original's plain forward.
        word: Stands behind the names of multiplexed models.
    """
    every = {"front": "{star}", "model": "{title}", **columns, "x original, forward of Hugging Face's": "{plain:.2f}"}
    every |= {**more, "parameters": "{millions:.1f} M", "trained, s": "{seconds:.0f}"}
    rows = []
    for point in sorted(points, key=lambda point: point.rows_per_second):
        row = vars(point) | {"star": "*" if on_front(point, points, worth) else "", "plain": point.speed_up_forward}
        row["title"] = point.name + (f" ({word})" if point.multiplexed else "")
        row["millions"] = None if point.parameters is None else point.parameters / 1e6
        rows.append(row)
    return table(rows, every)


def task_table(points: Sequence[Point], metric: str) -> str:
    """The table of a front of a task."""
    columns = {metric: "{score}", "same labels": "{agreement:.4f}", "instances/s": "{rows_per_second:.0f}"}
    columns["x original, same engine"] = "{speed_up:.2f}"
    return table_of(points, columns, {"falls back": "{fallback:.2f}"}, "T-MUX")


def given(settings: dict) -> str:
    """A program's arguments, as a command has them."""
    said = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return " ".join(f"--{name} {' '.join(map(str, own))}" for name, own in said.items() if own not in ([None], []))


def section(result: dict) -> Iterator[str]:
    """``front.json`` in Markdown, for the page of results."""
    settings, rows = result["settings"], result["rows"]
    yield (
        f"Task `{result['task']}`, {settings['encoder']}; {rows['train']:,} training rows, "
        f"{settings['num_train_epochs']:g} epochs of distillation, {rows['evaluation']:,} rows scored; cascades at "
        f"{_targets(settings)} agreement with the original; {settings['clock']} clock. "
        f"`python training/front.py {given(settings)}`, of files and folders the names."
    )
    yield result["table"]
    yield f"**{result['sentence']}**"


def _targets(settings: dict) -> str:
    """The agreement that cascades were to have; of older files one number."""
    targets = settings["target_agreement"]
    return ", ".join(f"{one:.0%}" for one in (targets if isinstance(targets, list) else [targets]))


def plot(
    path: Path,
    points: Sequence[Measured],
    title: str,
    ylabel: str,
    interval: Callable[[Measured], tuple[float, float]],
    squares: Callable[[Measured], bool],
    worth: Worth = score_of,
) -> None:
    """Score over speed. What is on the front has a name, and so has what is on that of the plain models.

    Args:
        interval: The ends of a point's interval.
        squares: Whether a point is a square.
    """
    plain, marks = [point for point in points if not point.multiplexed], []
    for point in points:
        front = on_front(point, points, worth)
        named = front or point.name == ORIGINAL or (not point.multiplexed and on_front(point, plain, worth))
        color, shape = "C3" if point.multiplexed else "0.35", "s" if squares(point) else "o"
        name = point.name if named else ""
        marks.append(Mark(point.speed_up, worth(point), *interval(point), name, color, shape, front))
    draw(path, marks, title, ylabel)


def plot_task(path: Path, points: Sequence[Point], title: str, metric: str) -> None:
    """The picture of a front of a task."""

    def interval(point: Point) -> tuple[float, float]:
        return point.score.mean - point.score.std, point.score.mean + point.score.std

    title = f"{title}; red: T-MUX, squares: the original behind"
    plot(path, points, title, metric, interval, lambda point: point.cascade)
