"""A table: every finished cell of a folder, seeds and groupings together, beside the plain network."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.experiments import Metric
from training.figures import measured, number
from training.report import aligned, new_figure, save_figure
from training.results import Score
from training.tables.cell import Measured
from training.tables.recipe import PLAIN

RESAMPLES = 1000


@dataclass(frozen=True)
class Entry:
    """A line of the table: the cells of a variant and N, one a seed.

    Attributes:
        variant, num_instances: which; N is 0 for a reference, which is no network.
        seeds: of the cells.
        scores: by name of the metric, over seeds and groupings.
        slots: lowest and highest score among the places in a group, of the first metric; None where N is below 2 or
            rows do not share passes.
        against: the entry that `difference` is to: the same variant at N = 1, else the variant "plain"; None if
            neither is there.
        difference: of the first metric, own less the other's; and the interval that 95 % of the bootstrap samples of
            the test rows are in, the same rows of both.
        published: what others have reported of the first metric; None if the recipe has nothing.
        parameters, multiply_adds, cpu_seconds: of a network, of a forward pass for each row, and of training, the mean
            over the seeds.
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


def entries(
    cells: list[Measured],
    metrics: tuple[Metric, ...],
    splits_by_seed: bool,
    published: dict[str, dict[int, float]] | None = None,
) -> list[Entry]:
    """The lines of a table, in the order of the cells."""
    groups: dict[tuple[str, int], list[Measured]] = {}
    for cell in cells:
        groups.setdefault((cell.result.variant, cell.result.num_instances), []).append(cell)
    lines = []
    for (variant, num_instances), own in groups.items():
        results = [cell.result for cell in own]
        first = metrics[0]
        places = np.mean([result.slots.get(first.name, []) for result in results], axis=0)
        rival = next(
            (key for key in ((variant, 1), (PLAIN, 1)) if key in groups and key != (variant, num_instances)), None
        )
        difference = None
        if rival is not None:
            difference = compare(own, groups[rival], first, splits_by_seed)
        lines.append(
            Entry(
                variant,
                num_instances,
                [result.seed for result in results],
                {
                    name: Score.of([v for r in results for v in r.scores[name].values])
                    for name in results[0].scores
                    if all(name in r.scores for r in results)
                },
                [float(places.min()), float(places.max())] if len(places) > 1 else None,
                f"{rival[0]}, N = {rival[1]}" if difference else None,
                difference,
                (published or {}).get(variant, {}).get(num_instances),
                results[0].parameters,
                results[0].multiply_adds,
                round(float(np.mean([result.cpu_seconds for result in results])), 1),
            )
        )
    return lines


def compare(own: list[Measured], other: list[Measured], metric: Metric, splits_by_seed: bool) -> list[float] | None:
    """The difference of two entries' scores and a bootstrap interval, [difference, low, high]; over the seeds that both
    have, None if there are none."""
    seeds = [cell.result.seed for cell in own if any(cell.result.seed == o.result.seed for o in other)]
    if not seeds:
        return None

    def of_rows(cells: list[Measured]) -> np.ndarray:
        by_seed = {cell.result.seed: cell.rows[metric.name].mean(0) for cell in cells}
        # Where every seed has the same test rows, a row is drawn with all its measures; else rows differ.
        kept = [by_seed[seed] for seed in seeds]
        return np.concatenate(kept) if splits_by_seed else np.mean(kept, axis=0)

    a, b = of_rows(own), of_rows(other)
    drawn = resamples(len(a))
    pairs = zip(drawn @ a, drawn @ b, strict=True)
    differences = [metric.of_mean(float(own)) - metric.of_mean(float(rival)) for own, rival in pairs]
    low, high = np.quantile(differences, [0.025, 0.975])
    return [metric.of_mean(float(a.mean())) - metric.of_mean(float(b.mean())), float(low), float(high)]


@functools.lru_cache(maxsize=1)
def resamples(rows: int) -> np.ndarray:
    """Bootstrap samples of so many rows, (RESAMPLES, rows): the share of each row in each sample. The same for every
    entry of a table."""
    draw = np.random.default_rng(0)
    return np.stack(
        [np.bincount(draw.integers(0, rows, rows), minlength=rows).astype(np.float32) / rows for _ in range(RESAMPLES)]
    )


def score(found: Score | None) -> str:
    """A score's mean, with its spread where there is one."""
    return "-" if found is None else measured(found.mean, found.std)


def table(lines: list[Entry]) -> str:
    """The table, for a terminal."""
    names = list(dict.fromkeys(name for line in lines for name in line.scores))
    header = [
        "",
        "N",
        *names,
        "published",
        f"{names[0]} by slot",
        "less plain, 95 %",
        "parameters",
        "multiply-adds a row",
        "CPU-s",
    ]
    rows = []
    for line in lines:
        difference = "-"
        if line.difference:
            own, low, high = (number(value, "+") for value in line.difference)
            difference = f"{own} ({low} to {high})"
        rows.append(
            [
                line.variant,
                str(line.num_instances or "-"),
                *(score(line.scores.get(name)) for name in names),
                number(line.published),
                " to ".join(map(number, line.slots)) if line.slots else "-",
                difference,
                *("-" if n is None else f"{n:,}" for n in (line.parameters, line.multiply_adds)),
                "-" if line.cpu_seconds is None else f"{line.cpu_seconds:.0f}",
            ]
        )
    return aligned([header, *rows])


def plot(path: Path, lines: list[Entry], metric: Metric, title: str, over: str | None = None) -> None:
    """Draws the first metric, as a PNG: of every variant over N, where what has one N alone is a level line; or, of
    every N, over the figure ``over``, a point a variant."""
    figure, axis = new_figure(1, 1, figsize=(6, 4) if over is None else (7, 4.5))
    if over is None:
        _draw_over_instances(axis, lines, metric)
    else:
        _draw_over(axis, [line for line in lines if over in line.scores], metric, over)
    axis.set_ylabel(metric.name)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def _draw_over_instances(axis, lines: list[Entry], metric: Metric) -> None:
    for color, variant in enumerate(dict.fromkeys(line.variant for line in lines)):
        own = [line for line in lines if line.variant == variant]
        scores = [line.scores[metric.name] for line in own]
        style = {"color": f"C{color % 10}", "label": variant}
        if len(own) == 1 and own[0].num_instances < 2:
            axis.axhline(scores[0].mean, linestyle="--", **style)
        else:
            means, spreads = [s.mean for s in scores], [s.std for s in scores]
            axis.errorbar([line.num_instances for line in own], means, spreads, marker=".", capsize=2, **style)
    numbers = sorted({line.num_instances for line in lines if line.num_instances})
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.set_xlabel("N, rows a pass")


def _draw_over(axis, lines: list[Entry], metric: Metric, over: str) -> None:
    for color, n in enumerate(sorted({line.num_instances for line in lines})):
        own = [line for line in lines if line.num_instances == n]
        places = [(line.scores[over].mean, line.scores[metric.name].mean) for line in own]
        spreads = [line.scores[metric.name].std for line in own]
        style = {"color": f"C{color % 10}", "label": f"N = {n}", "marker": ".", "capsize": 2}
        axis.errorbar(*zip(*places, strict=True), spreads, **style)
        for line, place in zip(own, places, strict=True):
            axis.annotate(line.variant, place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.set_xlabel(over)
