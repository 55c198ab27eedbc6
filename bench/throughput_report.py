"""What a measurement of throughput is read from: its rows, as a table and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEMULTIPLEXERS = ("index", "key", "unbind")


@dataclass
class Row:
    """One line of the result: T-MUX with N instances, beside the plain encoder that ran around it."""

    task: str
    demultiplexer: str
    num_instances: int
    groups: int
    plain_batch_size: int
    instances_per_second: float
    plain_instances_per_second: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    limit: float
    fraction_of_limit: float
    ratio_to_compiled_plain: float | None = None


def table(rows: list[Row]) -> str:
    """The rows as text, one line each."""
    head = f"{'task':9}{'demux':8}{'N':>3}{'G':>5}{'inst/s':>10}{'plain':>10}{'ratio':>8}{'quartiles':>15}"
    head += f"{'limit':>8}{'reached':>9}{'to compiled':>13}"
    lines = [head, "-" * len(head)]
    for r in rows:
        quartiles = f"{r.ratio_quartiles[0]:.2f}-{r.ratio_quartiles[1]:.2f}"
        lines.append(
            f"{r.task:9}{r.demultiplexer:8}{r.num_instances:>3}{r.groups:>5}{r.instances_per_second:>10.2f}"
            f"{r.plain_instances_per_second:>10.2f}{r.ratio:>8.2f}{quartiles:>15}{r.limit:>8.2f}{r.fraction_of_limit:>9.3f}"
            + (f"{r.ratio_to_compiled_plain:>13.2f}" if r.ratio_to_compiled_plain else f"{'-':>13}")
        )
    return "\n".join(lines)


def best_groups(rows: list[Row]) -> list[Row]:
    """Of each N, in order, the row of the group count that serves most."""
    best: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row.instances_per_second):
        best[row.num_instances] = row
    return [best[n] for n in sorted(best)]


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Speed-up over N, measured and limit, one panel a task; below it the fraction of the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(r.task for r in rows))
    figure, axes = plt.subplots(
        2, len(tasks), figsize=(5.2 * len(tasks), 6.4), sharex=True, squeeze=False, height_ratios=[2, 1]
    )
    colours = dict(zip(DEMULTIPLEXERS, ("tab:blue", "tab:green", "tab:orange"), strict=True))
    for (top, bottom), task in zip(axes.T, tasks, strict=True):
        for name in DEMULTIPLEXERS:
            own = best_groups([r for r in rows if (r.task, r.demultiplexer) == (task, name)])
            if not own:
                continue
            n = [r.num_instances for r in own]
            top.plot(n, [r.limit for r in own], "--", color=colours[name], linewidth=1, label=f"{name}, limit")
            ratios = [r.ratio for r in own]
            errors = [
                [r.ratio - r.ratio_quartiles[0] for r in own],
                [r.ratio_quartiles[1] - r.ratio for r in own],
            ]
            top.errorbar(n, ratios, errors, fmt="o-", color=colours[name], markersize=4, label=f"{name}, measured")
            bottom.plot(n, [r.fraction_of_limit for r in own], "o-", color=colours[name], markersize=4)
        top.set(title=f"{task} classification", ylabel="instances per second, over plain")
        top.legend(fontsize=8)
        bottom.axhline(1, color="grey", linewidth=0.8)
        bottom.set(xlabel="instances N", ylabel="fraction of limit", ylim=(min(0.8, *bottom.get_ylim()), None))
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
