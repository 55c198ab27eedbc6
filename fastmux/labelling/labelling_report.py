"""What a run of `predict` did, and where its time went."""

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


def processor_seconds() -> float:
    """The processor time of this process and of its child processes that have ended."""
    return time.process_time() + sum(os.times()[2:4])


@dataclass
class LabellingReport:
    """What a run did.

    Attributes:
        rows: The rows of the input.
        labelled: The rows that have a label.
        rejected: The rows that have none.
        cut: The rows that were cut to ``max_length``.
        fallback: The rows that the fallback answered.
        resumed: The rows that an earlier process had done.
        output: The output file; None if the rows were returned.
        rejects: The file that lists the rejected rows; None if there is none.
        times: Where the time went.
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
        out = [f"rows             {self.rows:,}: {self.labelled:,} labelled, {self.rejected:,} rejected"]
        if self.resumed:
            out.append(f"done before      {self.resumed:,}")
        if self.cut:
            out.append(f"cut              {self.cut:,}")
        if self.fallback:
            out.append(f"through fallback {self.fallback:,}")
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
