"""A table of all finished cells in a folder, with each variant beside the plain network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.experiments import Metric
from fastmux.training.formatting import Cell, interval, number, score, table
from fastmux.training.models import PLAIN
from fastmux.training.run_result import Score
from fastmux.training.scoring import difference
from fastmux.training.tables.cell import CellResult


@dataclass(frozen=True)
class TableRow:
    """A row of the table: the cells of a variant and N, one a seed.

    Attributes:
        variant, num_instances: The variant, and N; 0 for a reference, which is no network.
        seeds: The seeds of the cells.
        scores: The scores over seeds and groupings, by the metric's name.
        slots: The lowest and the highest score, by the first metric, among the places in a group. None where rows do
            not share passes.
        against: The network that this one is compared with: the same variant at N = 1, else the variant "plain".
        difference: The score by the first metric less the other network's, and the ends of its interval, see
            `fastmux.training.scoring.difference`.
        published: What others have reported of the first metric.
        parameters, multiply_adds: The network's parameters, and the multiply-adds of a forward pass for each row.
        cpu_seconds: The processor's time of training, the mean over the seeds.
    """

    variant: str
    num_instances: int
    seeds: list[int]
    scores: dict[str, Score]
    slots: list[float] | None = None
    against: str | None = None
    difference: list[float] | None = None
    published: float | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    cpu_seconds: float | None = None


def table_rows(
    cells: list[CellResult],
    metric: Metric,
    splits_by_seed: bool,
    published: dict[str, dict[int, float]] | None = None,
) -> list[TableRow]:
    """The rows of a table, in the order of the cells. ``metric`` is the one that is compared."""
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.variant, cell.num_instances), []).append(cell)
    rows = []
    for key, own in groups.items():
        variant, num_instances = key
        places = np.mean([cell.slots.get(metric.name, []) for cell in own], axis=0)
        rival = next((other for other in ((variant, 1), (PLAIN, 1)) if other in groups and other != key), None)
        against = None if rival is None else compare(own, groups[rival], metric, splits_by_seed)
        shared = [name for name in own[0].scores if all(name in cell.scores for cell in own)]
        rows.append(
            TableRow(
                variant,
                num_instances,
                [cell.seed for cell in own],
                {name: Score.of([value for cell in own for value in cell.scores[name].values]) for name in shared},
                [float(places.min()), float(places.max())] if len(places) > 1 else None,
                f"{rival[0]}, N = {rival[1]}" if against else None,
                against,
                (published or {}).get(variant, {}).get(num_instances),
                own[0].parameters,
                own[0].multiply_adds,
                round(float(np.mean([cell.cpu_seconds for cell in own])), 1),
            )
        )
    return rows


def compare(own: list[CellResult], other: list[CellResult], metric: Metric, splits_by_seed: bool) -> list[float] | None:
    """The difference of two rows' scores and the ends of its interval, [mean, low, high], over the seeds that both
    have; None if there are none."""
    by_seed = [{cell.seed: cell.rows[metric.name].mean(0) for cell in cells} for cells in (own, other)]
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if not seeds:
        return None
    # Where every seed has the same test rows, a row is drawn with all its measures; else rows differ.
    join = np.concatenate if splits_by_seed else lambda kept: np.mean(kept, axis=0)
    a, b = (join([measured[seed] for seed in seeds]).astype(float) for measured in by_seed)
    found = difference(lambda sums: metric.of_mean(float(sums[0]) / len(a)), a[:, None], b[:, None])
    return [found.mean, found.low, found.high]


def section(result: dict) -> Iterator[str]:
    """``results.json`` in Markdown, for the terminal and the page of results."""
    rows = result["table"]
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    seeds = {seed for row in rows for seed in row["seeds"]}
    yield (
        f"`python training/experiment.py {result['recipe']}`, {len(seeds)} seed{'s' * (len(seeds) > 1)}; the "
        f"difference is of {names[0]}, to the plain network, with the interval of 95 % of the bootstrap samples."
    )
    columns: dict[str, Cell] = {"": "`{variant}`", "N": lambda row: str(row["num_instances"] or "-")}
    columns |= {name: lambda row, name=name: score(row["scores"].get(name)) for name in names}
    columns["published"] = lambda row: number(row["published"])
    columns["by slot"] = lambda row: " to ".join(map(number, row["slots"])) if row["slots"] else "-"
    columns["difference"] = lambda row: interval(*row["difference"]) if row["difference"] else "-"
    yield table(rows, columns | {"multiply-adds a row": "{multiply_adds:,}", "CPU-s of training": "{cpu_seconds:.0f}"})


def plot(path: Path, rows: list[TableRow], metric: Metric, title: str, over: str | None = None) -> None:
    """Draws the metric, as a PNG: of every variant over N, where what has one N alone is a level line; or, of every N,
    over the figure ``over``, a point a variant."""
    numbers = sorted({row.num_instances for row in rows if row.num_instances})
    axis: dict[str, object] = {"xlabel": over, "ylabel": metric.name}
    if over is None:
        axis |= {"xlabel": "N, rows a pass", "xscale": "log", "xticks": numbers, "xticklabels": list(map(str, numbers))}
    lines, drawn = {}, [row for row in rows if over is None or over in row.scores]
    for row in drawn:
        lines.setdefault(row.variant if over is None else f"N = {row.num_instances}", []).append(row)
    made = []
    for label, own in lines.items():
        places = [row.num_instances if over is None else row.scores[over].mean for row in own]
        style: dict[str, object] = {"label": label}
        if over is None and places in ([0], [1]):
            own, places, style = own * 2, [numbers[0], numbers[-1]], {**style, "linestyle": "--", "marker": ""}
        scores = [row.scores[metric.name] for row in own]
        points = list(zip(places, (score.mean for score in scores), strict=True))
        names = [row.variant for row in own] if over else ()
        made.append(Line(points, [score.std for score in scores], names, style))
    draw(path, title, [Panel(made, axis)], (7.0, 4.5))
