"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.searching.floor import Floor
from fastmux.searching.points import Point


@dataclass(frozen=True)
class Found:
    """What a search found, which is also the content of ``search.json``.

    Attributes:
        sentence: The verdict, in words.
        met: Whether the chosen model meets the need.
        chosen: The chosen model, as it was measured.
        points: All that was measured, the original first.
        floor: How far words alone go; None of a model that labels words.
        rows: How many rows there were, by what they were for.
        kind: What models agree in: the name of a `fastmux.searching.kinds.Kind`.
        majority: The agreement of saying nothing: the share of the reporting rows with the most frequent label, or of
            neighbours that are drawn at random.
        left_out: What did not take part, by name, and why.
        history: For each candidate, after each of its rungs: steps, agreement on the choosing rows, worth.
        settings: The settings.
        finished: Whether the search came to its end; False if it was interrupted, and leaves the best so far.
        table: The table, its header first.
    """

    sentence: str
    met: bool
    chosen: Point
    points: list[Point]
    floor: Floor | None
    rows: dict[str, int]
    kind: str
    majority: float
    left_out: dict[str, str]
    history: dict[str, list]
    settings: dict
    finished: bool
    table: list[list[str]]
