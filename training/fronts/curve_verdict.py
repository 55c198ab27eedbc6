"""Curves as a table, sentences that are computed from their figures, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.formatting import table
from fastmux.training.fronts.curve_figures import Curve, CurvePoint, Gap, Law
from fastmux.training.fronts.law import Estimate
from fastmux.training.fronts.verdict import given
from fastmux.training.run_result import Score


def curve_table(curves: Sequence[Curve], metric: str) -> str:
    """A row for each student, the fastest last; a column for each number of row-updates."""
    columns = {"student": "{title}", "x original, same engine": "{speed_up:.2f}"}
    every = sorted({point.row_updates for curve in curves for point in curve.points})
    for n in every:
        columns[f"{n:,}"] = "{" + f"at_{n}" + "}"
    columns |= {"begins to learn at": "{began}", "floor": "{floor}", "ten times more": "{then}", "power": "{power}"}
    columns |= {f"{metric}, floor": "{score_floor}"}
    columns |= {"processor, s": "{seconds:.0f}", "passes a row": "1/{num_instances}"}
    rows = []
    for curve in sorted(curves, key=lambda curve: curve.rows_per_second):
        row = asdict(curve) | {"title": curve.name + (" (T-MUX)" if curve.multiplexed else "")}
        for point in curve.points:
            row[f"at_{point.row_updates}"] = f"{point.agreement.mean:.4f} ({point.score.mean:.4f})"
        row["began"] = "-" if curve.begins is None else f"{curve.begins:,}"
        row["seconds"] = curve.points[-1].seconds if curve.points else None
        if (law := curve.agreement) is not None:
            row |= {"floor": _best(law.floor), "then": _best(law.then), "power": f"{law.power.value:.2f}"}
        if curve.score is not None:
            row["score_floor"] = _best(curve.score.floor)
        rows.append(row)
    return table(rows, columns)


def _best(wrong: Estimate) -> str:
    """A share that is right, of one that is wrong."""
    return f"{1 - wrong.value:.3f} ({1 - wrong.high:.3f} to {1 - wrong.low:.3f})"


def sentence(gap: Gap, curves: Sequence[Curve]) -> str:
    """What the figures say of a T-MUX and of the plain student of its speed."""
    own, rival = (next(curve for curve in curves if curve.name == name) for name in (gap.name, gap.rival))
    point = next(point for point in own.points if point.row_updates == gap.row_updates)
    said = (
        f"After {gap.row_updates:,} row-updates {own.name} ({own.speed_up:.2f} x) has the original's label on "
        f"{100 * point.agreement.mean:.1f} % of the rows, {_apart(gap.behind, ' of')} {rival.name} "
        f"({rival.speed_up:.2f} x{'' if gap.as_fast else ', the fastest plain student'})"
    )
    if gap.was is not None:
        said += f"; after {gap.tenth:,} it was {_apart(gap.was)}"
    if gap.equal_passes is not None:
        said += f"; beside {rival.name} after as many passes, of a row each, it is {_apart(gap.equal_passes)}"
    if own.begins is None:
        return said + ". It has not begun to learn: one answer to all rows would agree in as many."
    if gap.then is None or own.agreement is None or rival.agreement is None:
        since = "" if own.begins == own.points[0].row_updates else f" from {own.begins:,} on, where it begins to learn,"
        return said + f". The points{since} are too few for a law."
    floors = (f"{100 * law.floor.value:.1f} % {_range(law.floor)}" for law in (own.agreement, rival.agreement))
    verdict = {
        True: "training closes the gap",
        False: "training does not close the gap",
        None: "these points do not tell whether training closes the gap",
    }
    return (
        f"{said}. By the fitted laws it is {_apart(gap.then)} after ten times more, and {' and '.join(floors)} never "
        f"agree: {verdict[gap.closes]}."
    )


def _apart(behind: Estimate, of: str = "") -> str:
    if behind.value >= 0:
        return f"{100 * behind.value:.1f} points {_range(behind)} behind"
    ahead = Estimate(-behind.value, -behind.high, -behind.low)
    return f"{100 * ahead.value:.1f} points {_range(ahead)} ahead{of}"


def _range(share: Estimate) -> str:
    return f"({100 * share.low:.1f} to {100 * share.high:.1f})"


def section(result: dict) -> Iterator[str]:
    """``curves.json`` in Markdown, for the page of results."""
    settings, rows = result["settings"], result["rows"]
    text = f" and {rows['further text']:,} of further text" if "further text" in rows else ""
    yield (
        f"Task `{result['task']}`, {settings['encoder']}; {rows['train']:,} rows{text} to learn from, without labels, "
        f"{rows['evaluation']:,} scored. A column is a number of row-updates: the share of rows with the original's "
        f"label, and {result['metric']}. One answer to all rows would have the original's label on "
        f"{100 * result['constant']:.1f} % of them; a student *begins to learn* at the first point from which on it "
        "has more, and its law is of the points from there. `floor` and `ten times more` are the share that the fitted "
        f"law promises, with 95 % intervals; {settings['clock']} clock. `python training/curves.py {given(settings)}`, "
        "of files and folders the names."
    )
    yield result["table"]
    for said in result["sentences"]:
        yield f"**{said}**"


def plot(path: Path, curves: Sequence[Curve], title: str, metric: str, x: str, label: str) -> None:
    """What is wrong over ``x``, a field of `CurvePoint`, both on log scales; over row-updates lines are the laws."""
    curves = [curve for curve in curves if curve.points]
    panels = [
        _panel(curves, x, label, "another label than the original's", lambda p: p.agreement, lambda c: c.agreement),
        _panel(curves, x, label, f"1 - {metric}", lambda p: p.score, lambda c: c.score),
    ]
    draw(path, title, panels, (6.5, 5.0))


def _panel(
    curves: Sequence[Curve],
    x: str,
    label: str,
    what: str,
    of_point: Callable[[CurvePoint], Score],
    of_curve: Callable[[Curve], Law | None],
) -> Panel:
    lines = []
    for number, curve in enumerate(curves):
        style = {"color": f"C{number % 10}", "marker": "o" if curve.multiplexed else "s", "ms": 4}
        points = [(getattr(p, x), max(1 - of_point(p).mean, 1e-4)) for p in curve.points]
        spread = [of_point(p).std for p in curve.points]
        law = of_curve(curve) if x == "row_updates" else None
        name = f"{curve.name}, {curve.speed_up:.1f} x"
        lines.append(Line(points, spread, style={**style, "label": name, "lw": 0 if law else 1, "elinewidth": 0.8}))
        if law is not None and curve.begins is not None:
            first, last = curve.begins, law.more
            ns = [first * (last / first) ** (k / 40) for k in range(41)]
            own = [(n, max(law.floor.value + law.scale * n**-law.power.value, 1e-4)) for n in ns]
            lines.append(Line(own, style={"color": style["color"], "marker": "", "lw": 1}))
    axis: dict[str, object] = {"xlabel": label, "ylabel": what, "xscale": "log", "yscale": "log"}
    return Panel(lines, axis)
