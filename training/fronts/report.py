"""What a front says: who is on it, a sentence computed from the figures, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.figures import measured, number
from training.fronts.measure import Entry
from training.report import new_figure, save_figure


def on_front(entry: Entry, others: Sequence[Entry]) -> bool:
    """Whether none of the others is at least as good and as fast, and better in one of both."""
    score, rate = entry.score.mean, entry.rows_per_second
    return not any(
        (o.score.mean, o.rows_per_second) != (score, rate) and o.score.mean >= score and o.rows_per_second >= rate
        for o in others
    )


def margin(entry: Entry, plain: Sequence[Entry]) -> tuple[float, Entry | None]:
    """How much better a T-MUX scores than the best plain model of at least its speed, and which that is."""
    rivals = [other for other in plain if other.rows_per_second >= entry.rows_per_second]
    if not rivals:
        return float("inf"), None
    best = max(rivals, key=lambda other: other.score.mean)
    return entry.score.mean - best.score.mean, best


def sentence(entries: Sequence[Entry]) -> str:
    """Whether a T-MUX is on the front that the plain models draw, and by how much."""
    plain = [entry for entry in entries if not entry.multiplexed]
    muxes = [entry for entry in entries if entry.multiplexed]
    if not muxes:
        return "There is no T-MUX among the candidates."
    ahead = [entry for entry in muxes if on_front(entry, plain)]
    if not ahead:
        nearest = max(muxes, key=lambda entry: margin(entry, plain)[0])
        lost, rival = margin(nearest, plain)
        return (
            f"No T-MUX is on the front: the nearest, {_point(nearest)}, is {-100 * lost:.1f} points behind "
            f"{_point(rival)}, which is as fast or faster."
        )
    parts = []
    for entry in sorted(ahead, key=lambda entry: entry.rows_per_second):
        won, rival = margin(entry, plain)
        than = "faster than every plain model" if rival is None else f"{100 * won:.1f} points above {_point(rival)}"
        parts.append(f"{_point(entry)}, {than}")
    return "On the front: " + "; ".join(parts) + "."


def _point(entry: Entry) -> str:
    return f"{entry.name} ({entry.score.mean:.4f} at {entry.speed_up:.2f} x)"


def table(entries: Sequence[Entry], metric: str) -> str:
    """A Markdown table, the fastest last; a star marks what no other is both as good and as fast as."""
    lines = [
        f"| front | model | {metric} | same labels | instances/s | x original | falls back | parameters | trained, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in sorted(entries, key=lambda entry: entry.rows_per_second):
        cells = [
            "*" if on_front(entry, entries) else "",
            entry.name + (" (T-MUX)" if entry.multiplexed else ""),
            measured(entry.score.mean, entry.score.std),
            number(entry.agreement),
            f"{entry.rows_per_second:.0f}",
            f"{entry.speed_up:.2f}",
            "" if entry.fallback is None else f"{entry.fallback:.2f}",
            "" if entry.cascade else f"{entry.parameters / 1e6:.1f} M",
            "" if entry.seconds is None or entry.cascade else f"{entry.seconds:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(path: Path, entries: Sequence[Entry], title: str, metric: str) -> None:
    """Score over speed, with the front of the plain models and that of all."""
    figure, axis = new_figure(1, 1, figsize=(8.0, 5.0))
    plain = [entry for entry in entries if not entry.multiplexed]
    for label, color, chosen in (("plain models", "0.5", plain), ("with T-MUX", "C3", entries)):
        front = sorted((e for e in chosen if on_front(e, chosen)), key=lambda e: e.speed_up)
        line = [(e.speed_up, e.score.mean) for e in front]
        axis.plot(*zip(*line, strict=True), color=color, drawstyle="steps-pre", label=f"front, {label}", zorder=1)
    for entry in entries:
        color, marker = ("C3" if entry.multiplexed else "0.3"), ("s" if entry.cascade else "o")
        spread = entry.score.std or None
        axis.errorbar(entry.speed_up, entry.score.mean, yerr=spread, color=color, marker=marker, ms=5, ls="", zorder=2)
        # Names where they fit: of what is on one of the two fronts.
        if not (on_front(entry, entries) or (not entry.multiplexed and on_front(entry, plain))):
            continue
        place = {"textcoords": "offset points", "xytext": (5, 3), "fontsize": 7, "color": color}
        axis.annotate(entry.name, (entry.speed_up, entry.score.mean), **place)
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 3, 4, 6, 8, 12], ["1", "2", "3", "4", "6", "8", "12"])
    axis.minorticks_off()
    axis.set_xlabel("instances a second, times the original's")
    axis.set_ylabel(metric)
    axis.set_title(title + "; squares: the original behind", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)
