"""What a front of models that embed says: a table, sentences computed from the numbers, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fastmux.training.formatting import interval, number, table
from fastmux.training.fronts.candidates import ORIGINAL
from fastmux.training.fronts.embedding_models import AllFigures, EmbeddingPoint
from fastmux.training.fronts.embedding_scores import Scoring
from fastmux.training.fronts.verdict import AS_FAST, SPEEDS, given, plot, table_of


def _score(point: EmbeddingPoint, scoring: int = 0) -> float:
    """A scoring's first metric."""
    return point.scores[scoring][0]


def embedding_table(points: Sequence[EmbeddingPoint], scorings: Sequence[Scoring]) -> str:
    """The table; the star is for the first scoring."""
    columns = {"texts/s": "{rows_per_second:.0f}", "x original, same engine": "{speed_up:.2f}"}
    for k, scoring in enumerate(scorings):
        for j, metric in enumerate(scoring.metrics):
            columns[f"{scoring.name}, {metric}"] = lambda row, k=k, j=j: number(row["scores"][k][j])
    columns |= {"cosine with the original": "{cosine:.4f}", "same neighbours": "{neighbours:.4f}"}
    return table_of(points, columns, {}, "multiplexed", _score)


def sentences(points: Sequence[EmbeddingPoint], figures: AllFigures, scorings: Sequence[Scoring]) -> list[str]:
    """For each speed and precision: the best plain and the best multiplexed student, and how they differ."""
    found = []
    for precision in ("float32", "int8"):
        kind = [point for point in points if point.precision == precision]
        base = next((point.rows_per_second for point in kind if point.name.split(",")[0] == ORIGINAL), None)
        for speed in SPEEDS if base else ():
            fast = [point for point in kind if point.rows_per_second >= speed * AS_FAST * base]
            plain = [point for point in fast if not point.multiplexed and point.parameters is not None]
            muxes = [point for point in fast if point.multiplexed]
            if not plain:
                continue
            best = max(plain, key=_score)
            said = f"At {speed} x the original in {precision}: {_named(best, scorings)}"
            if not muxes:
                found.append(said + "; no multiplexed student is as fast.")
                continue
            mux = max(muxes, key=_score)
            parts = []
            for k, scoring in enumerate(scorings):
                apart = figures[mux.name][k][0].less(figures[best.name][k][0])
                verdict = "ahead" if apart.low > 0 else "behind" if apart.high < 0 else "no difference"
                parts.append(f"{scoring.metrics[0]} {interval(apart.mean, apart.low, apart.high)}, {verdict}")
            found.append(
                f"{said}. The best multiplexed student, {_named(mux, scorings)}, beside it: {'; '.join(parts)}."
            )
    return found


def _named(point: EmbeddingPoint, scorings: Sequence[Scoring]) -> str:
    said = ", ".join(f"{s.metrics[0]} {number(own[0])}" for s, own in zip(scorings, point.scores, strict=True))
    return f"{point.name} ({point.speed_up:.2f} x; {said})"


def plot_embeddings(folder: Path, points: Sequence[EmbeddingPoint], scorings: Sequence[Scoring], encoder: str) -> None:
    """A picture of each of the first two scorings: its first metric over speed, with the interval of its difference to
    the original. A static model is left to the table: it would make the others one dot."""
    shown = [point for point in points if point.parameters is not None]
    for place, scoring in enumerate(scorings[:2]):

        def ends(point: EmbeddingPoint, place: int = place) -> tuple[float, float]:
            apart, score = point.differences[place][0], _score(point, place)
            return score - (apart.mean - apart.low), score + (apart.high - apart.mean)

        path = folder / ("embeddings.png" if place == 0 else f"embeddings_{place + 1}.png")
        title = f"{encoder}, {scoring.name}; red: multiplexed, squares: 8 bits"
        worth = partial(_score, scoring=place)
        plot(path, shown, title, scoring.metrics[0], ends, lambda point: point.precision == "int8", worth)


def section(result: dict) -> Iterator[str]:
    """``embeddings.json`` in Markdown, for the page of results."""
    settings, rows = result["settings"], result["rows"]
    yield (
        f"Vectors of students of {settings['encoder']}, which learnt from {rows['train']:,} unlabelled texts in "
        f"{settings['num_train_epochs']:g} passes; {settings['clock']} clock. `python training/embeddings.py "
        f"{given(settings)}`, of files and folders the names."
    )
    yield result["table"]
    yield "\n".join(f"- {sentence}" for sentence in result["sentences"])
    yield "Less the original's, with 95 % intervals over rows:"
    columns = {"model": "{name}"}
    for k, (name, *metrics) in enumerate(result["metrics"]):
        columns[f"{name}, {metrics[0]}"] = lambda row, k=k: interval(**row["differences"][k][0])
    yield table([point for point in result["embedding_points"] if point["name"] != ORIGINAL], columns)
