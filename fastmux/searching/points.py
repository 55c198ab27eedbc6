"""A model as it was measured: a point of agreement and speed."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.passes.shares import Share


@dataclass(frozen=True)
class Point:
    """A model as it was measured.

    Attributes:
        name: Its name.
        form: The name of its form: without the original behind it.
        model, words, runtime, precision, multiplexed: As of a `Form`.
        choosing: The share with the original's label, or of the same neighbours, on the rows that models are chosen on.
        agreement: The same on the rows that decide nothing; this is what is reported.
        score: The accuracy or F1 on the rows that decide nothing; None without labels.
        cosine: Of a model that embeds, the mean cosine of its vectors with the original's, on these rows.
        similarities: Of a model that embeds, the Spearman correlation of the cosines between these rows, all pairs of
            them, with those between the original's.
        rows_per_second: Through the engine, in turns with all others.
        speed_up: How many times as fast as the original through the same engine.
        speed_up_forward: How many times as fast as the original as Hugging Face runs it, in batches of 32.
        went_on: The share of the rows that went on to the original; None without it.
        min_confidence: The confidence below which they do.
        behind: The name of the form of the original that stands behind it; None without.
    """

    name: str
    form: str
    model: str
    words: str
    runtime: str
    precision: str
    multiplexed: bool
    choosing: Share
    agreement: Share
    score: float | None
    rows_per_second: float
    speed_up: float
    speed_up_forward: float
    went_on: float | None = None
    min_confidence: float | None = None
    behind: str | None = None
    cosine: float | None = None
    similarities: float | None = None

    @property
    def cascade(self) -> bool:
        """Whether the original stands behind it."""
        return self.behind is not None
