"""What a run of `predict` or `embed` did, and where its time went."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field


@dataclass
class Times:
    """Seconds by stage.

    Attributes:
        preparing: The time that all processes spent parsing and tokenising, ahead of the model.
        starting: The time until the first rows were ready for the model, including the start of other processes.
        waiting: The time that the model waited for rows, including the first ones.
        model: The time in the model.
        writing: The time for writing, including putting the shards together.
        total: The time from the first row read to the end, without loading the model.
        processor: The processor time of this process and of those that tokenise, from the first row to the end.
    """

    preparing: float = 0.0
    starting: float = 0.0
    waiting: float = 0.0
    model: float = 0.0
    writing: float = 0.0
    total: float = 0.0
    processor: float = 0.0


@dataclass
class CascadeCost:
    """What this process's rows cost in a model and in its fallback.

    Attributes:
        rows: The rows that the model answered.
        went_on: The rows that the fallback answered again.
        seconds: The time of the model.
        fallback_seconds: The time of the fallback.
    """

    rows: int = 0
    went_on: int = 0
    seconds: float = 0.0
    fallback_seconds: float = 0.0

    def add(self, rows: int, went_on: int, seconds: float, fallback_seconds: float) -> None:
        """Count a shard."""
        self.rows, self.went_on = self.rows + rows, self.went_on + went_on
        self.seconds, self.fallback_seconds = self.seconds + seconds, self.fallback_seconds + fallback_seconds

    def warning(self) -> str | None:
        """A sentence if the fallback alone would be faster than both; None otherwise, and as long as too few rows went
        on to tell."""
        if self.went_on < _TELLING_ROWS:
            return None
        alone = self.rows * self.fallback_seconds / self.went_on
        both = self.seconds + self.fallback_seconds
        if both <= alone:
            return None
        pays = max(0.0, 1 - self.seconds / alone)
        return (
            f"{self.went_on / self.rows:.0%} of the rows went on to the fallback, which alone would be faster: about "
            f"{self.rows / alone:,.0f} rows a second in place of {self.rows / both:,.0f}; a cascade of these two pays "
            + (f"below {pays:.0%}" if pays >= 0.01 else "at no share")
            + " (a lower min_confidence sends fewer on; fastmux calibrate measures it)"
        )


@dataclass(frozen=True)
class Reject:
    """A row that has no label.

    Attributes:
        number: The number of its line, or of the row, from 1.
        reason: What is wrong with it.
        content: The line, with bytes that are not UTF-8 as ``\\xE9``; or the columns of the row as JSON.
    """

    number: int
    reason: str
    content: str


#: So many rows through the fallback tell what one of them costs.
_TELLING_ROWS = 100


def processor_seconds() -> float:
    """The processor time of this process and of its child processes that have ended."""
    return time.process_time() + sum(os.times()[2:4])


@dataclass
class LabellingReport:
    """What a run did.

    Attributes:
        rows: The rows of the input.
        labelled: The rows that have a label, or a vector.
        rejected: The rows that have none.
        cut: The rows that were cut to ``max_length``.
        fallback: The rows that the fallback answered.
        resumed: The rows that an earlier process had done.
        output: The output file; None if the rows were returned.
        rejects: The file that lists the rejected rows; None if there is none.
        times: Where the time went.
        cascade: What rows cost in the model and in its fallback.
        done: What was done with rows, in a word.
    """

    rows: int = 0
    labelled: int = 0
    rejected: int = 0
    cut: int = 0
    fallback: int = 0
    resumed: int = 0
    output: str | None = None
    rejects: str | None = None
    times: Times = field(default_factory=Times)
    cascade: CascadeCost = field(default_factory=CascadeCost)
    done: str = "labelled"

    def add(self, record: dict) -> None:
        """Count a shard."""
        for name in ("rows", "labelled", "rejected", "cut", "fallback"):
            setattr(self, name, getattr(self, name) + record[name])

    @property
    def rows_per_second(self) -> float:
        """The rows a second of this process."""
        return (self.rows - self.resumed) / max(self.times.total, 1e-9)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        times = self.times
        out = [f"rows             {self.rows:,}: {self.labelled:,} {self.done}, {self.rejected:,} rejected"]
        if self.resumed:
            out.append(f"done before      {self.resumed:,}")
        if self.cut:
            out.append(f"cut              {self.cut:,}, which were longer than the model takes")
        if self.fallback:
            out.append(f"through fallback {self.fallback:,} ({self.fallback / max(1, self.labelled):.0%})")
        if slower := self.cascade.warning():
            out.append(f"slower           {slower}")
        out.append(f"rows a second    {self.rows_per_second:,.0f}")
        share = times.model / max(times.total, 1e-9)
        out.append(
            f"seconds          {times.total:.1f}: model {times.model:.1f} ({share:.0%}), waiting for rows "
            f"{times.waiting:.1f} (for the first {times.starting:.1f}), writing {times.writing:.1f}; beside them, "
            f"tokenising {times.preparing:.1f}"
        )
        if self.output:
            out.append(f"written          {self.output}")
        if self.rejects:
            out.append(f"rejected         {self.rejects}")
        return out
