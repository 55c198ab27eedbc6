"""What `export` says of what it wrote."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.passes.runtimes.record import RuntimeRecord


@dataclass(frozen=True)
class Export:
    """What `export` wrote, and how it compares.

    Attributes:
        record: The folder's ``runtime.json``.
        rows: The number of rows on which both were run.
        same: The share of these rows with the original's labels; None of a regression.
        largest_difference: Of their logits, in units of the standard deviation of the original's.
        megabytes: The size of the model's file.
    """

    record: RuntimeRecord
    rows: int
    same: float | None
    largest_difference: float
    megabytes: float
