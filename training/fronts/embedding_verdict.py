"""What a front of models that embed says: a table, sentences computed from the numbers, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastmux.searching.picture import Mark, draw
from fastmux.searching.verdict import unbeaten
from fastmux.training.formatting import interval, markdown, number
from fastmux.training.fronts.candidates import ORIGINAL
from fastmux.training.fronts.embedding_models import Measured
from fastmux.training.fronts.embedding_scores import Scoring
from fastmux.training.run_result import Difference

#: Times the original's speed at which models are compared.
SPEEDS = (2, 4, 8)
#: A rival may be so much slower than what it is compared with: two runs of one model differ as much.
_AS_FAST = 0.97


@dataclass(frozen=True)
class EmbeddingPoint:
    """A model of the front.

    Attributes:
        name: Its name.
        precision: "float32" or "int8".
        multiplexed: Rows or positions share a pass.
        scores: The values of each scoring's metrics.
        differences: The same less the original's, with intervals.
        cosine: The mean cosine of its vectors with the original's; None where their sizes differ.
        neighbours: The share of its texts' nearest neighbours that are those of the original.
        rows_per_second: Through the engine, in turns with all others.
        speed_up: Over the original through the same engine.
        speed_up_forward: Over the original as Hugging Face alone runs it.
        parameters, seconds: Of the model, and of its training.
    """

    name: str
    precision: str
    multiplexed: bool
    scores: list[list[float]]
    differences: list[list[Difference]]
    cosine: float | None
    neighbours: float
    rows_per_second: float
    speed_up: float
    speed_up_forward: float
    parameters: int | None
    seconds: float | None


def points_of(measured: Mapping[str, Measured], forward: float) -> list[EmbeddingPoint]:
    """The points of all models; ``forward`` is the speed of the original as Hugging Face alone runs it."""
    original, points = measured[ORIGINAL], []
    for name, found in measured.items():
        pairs = [zip(own, first, strict=True) for own, first in zip(found.figures, original.figures, strict=True)]
        points.append(
            EmbeddingPoint(
                name=name,
                precision=found.contestant.precision,
                multiplexed=found.contestant.multiplexed,
                scores=[[figure.value() for figure in own] for own in found.figures],
                differences=[[own.less(first) for own, first in both] for both in pairs],
                cosine=found.cosine,
                neighbours=found.neighbours,
                rows_per_second=found.rows_per_second,
                speed_up=found.rows_per_second / original.rows_per_second,
                speed_up_forward=found.rows_per_second / forward,
                parameters=found.contestant.parameters,
                seconds=found.contestant.seconds,
            )
        )
    return points


def on_front(point: EmbeddingPoint, others: Sequence[EmbeddingPoint], scoring: int) -> bool:
    """Whether none of the others is at least as good in a scoring's first metric and as fast, and better in one."""
    return unbeaten(_place(point, scoring), [_place(other, scoring) for other in others])


def _place(point: EmbeddingPoint, scoring: int) -> tuple[float, float]:
    return point.scores[scoring][0], point.rows_per_second


def table(points: Sequence[EmbeddingPoint], scorings: Sequence[Scoring]) -> str:
    """A Markdown table, the fastest last; a star marks what no other is both as good and as fast as in the first
    scoring."""
    metrics = [f"{scoring.name}, {metric}" for scoring in scorings for metric in scoring.metrics]
    header = [
        "front",
        "model",
        "texts/s",
        "x original, same engine",
        *metrics,
        "cosine with the original",
        "same neighbours",
    ]
    rows = []
    for point in sorted(points, key=lambda point: point.rows_per_second):
        rows.append(
            [
                "*" if on_front(point, points, 0) else "",
                point.name + (" (multiplexed)" if point.multiplexed else ""),
                f"{point.rows_per_second:.0f}",
                f"{point.speed_up:.2f}",
                *(number(value) for values in point.scores for value in values),
                number(point.cosine),
                number(point.neighbours),
                f"{point.speed_up_forward:.2f}",
                "" if point.parameters is None else f"{point.parameters / 1e6:.1f} M",
                "" if point.seconds is None else f"{point.seconds:.0f}",
            ]
        )
    return markdown([*header, "x original, forward of Hugging Face's", "parameters", "trained, s"], rows)


def sentences(
    points: Sequence[EmbeddingPoint], measured: Mapping[str, Measured], scorings: Sequence[Scoring]
) -> list[str]:
    """For each speed and precision: the best plain and the best multiplexed student, and how they differ."""
    found = []
    for precision in ("float32", "int8"):
        kind = [point for point in points if point.precision == precision]
        base = next((point.rows_per_second for point in kind if point.name.split(",")[0] == ORIGINAL), None)
        for speed in SPEEDS if base else ():
            fast = [point for point in kind if point.rows_per_second >= speed * _AS_FAST * base]
            plain = [point for point in fast if not point.multiplexed and point.parameters is not None]
            muxes = [point for point in fast if point.multiplexed]
            if not plain:
                continue
            best = _best(plain)
            said = f"At {speed} x the original in {precision}: {_named(best, scorings)}"
            if not muxes:
                found.append(said + "; no multiplexed student is as fast.")
                continue
            mux = _best(muxes)
            parts = []
            for k, scoring in enumerate(scorings):
                apart = measured[mux.name].figures[k][0].less(measured[best.name].figures[k][0])
                verdict = "ahead" if apart.low > 0 else "behind" if apart.high < 0 else "no difference"
                parts.append(f"{scoring.metrics[0]} {interval(apart.mean, apart.low, apart.high)}, {verdict}")
            found.append(
                f"{said}. The best multiplexed student, {_named(mux, scorings)}, beside it: {'; '.join(parts)}."
            )
    return found


def _best(points: Sequence[EmbeddingPoint]) -> EmbeddingPoint:
    return max(points, key=lambda point: point.scores[0][0])


def _named(point: EmbeddingPoint, scorings: Sequence[Scoring]) -> str:
    said = ", ".join(f"{s.metrics[0]} {number(own[0])}" for s, own in zip(scorings, point.scores, strict=True))
    return f"{point.name} ({point.speed_up:.2f} x; {said})"


def plot(folder: Path, points: Sequence[EmbeddingPoint], scorings: Sequence[Scoring], encoder: str) -> None:
    """A picture of each of the first two scorings: its first metric over speed, with the interval of its difference to
    the original. A static model is left to the table: it would make the others one dot."""
    shown = [point for point in points if point.parameters is not None]
    for place, scoring in enumerate(scorings[:2]):
        plain, marks = [point for point in shown if not point.multiplexed], []
        for point in shown:
            apart, score = point.differences[place][0], point.scores[place][0]
            front = on_front(point, shown, place)
            named = front or point.name == ORIGINAL or (not point.multiplexed and on_front(point, plain, place))
            color, shape = "C3" if point.multiplexed else "0.35", "s" if point.precision == "int8" else "o"
            low, high = score - (apart.mean - apart.low), score + (apart.high - apart.mean)
            marks.append(Mark(point.speed_up, score, low, high, point.name if named else "", color, shape, front))
        path = folder / ("embeddings.png" if place == 0 else f"embeddings_{place + 1}.png")
        title = f"{encoder}, {scoring.name}; red: multiplexed, squares: 8 bits"
        draw(path, marks, title, scoring.metrics[0])


def section(result: dict) -> Iterator[str]:
    """``embeddings.json`` in Markdown, for the page of results."""
    settings, rows = result["settings"], result["rows"]
    given = " ".join(f"--{name} {value}" for name, value in settings.items() if value not in (None, []))
    yield (
        f"Vectors of students of {settings['encoder']}, which learnt from {rows['train']:,} unlabelled texts in "
        f"{settings['num_train_epochs']:g} passes; {settings['clock']} clock. `python training/embeddings.py {given}`, "
        "of files and folders the names."
    )
    yield result["table"]
    yield "\n".join(f"- {sentence}" for sentence in result["sentences"])
    yield "Less the original's, with 95 % intervals over rows:"
    names = [f"{name}, {metrics[0]}" for name, *metrics in result["metrics"]]
    lines = []
    for point in result["embedding_points"]:
        if point["name"] != ORIGINAL:
            apart = [own[0] for own in point["differences"]]
            lines.append([point["name"], *(interval(d["mean"], d["low"], d["high"]) for d in apart)])
    yield markdown(["model", *names], lines)
