"""What a run did, and where its time went."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field


@dataclass
class Times:
    """Seconds by stage.

    Attributes:
        preparing: parsing and tokenising, ahead of the model, in all processes that do it.
        starting: from the first row read until the first rows were ready for the model, the start of other processes
            included.
        waiting: until rows were ready, the first ones included.
        model: in the model.
        writing: to the disk, the joining of the shards included.
        total: from the first row read to the end; loading the model is not in it.
        processor: of processors, in the same time, in this process and in those that tokenise.
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
        number: of its line, or of the row, from 1.
        reason: what is wrong with it.
        content: the row: its line, with bytes that are no UTF-8 as ``\\xE9``; or its columns, as JSON.
    """

    number: int
    reason: str
    content: str


def processor_seconds() -> float:
    """Of this process, and of those that it has seen end."""
    return time.process_time() + sum(os.times()[2:4])


@dataclass
class LabellingReport:
    """What a run did.

    Attributes:
        rows: of the input.
        labelled, rejected: how many of them have a label, and how many have none.
        cut: rows that were cut to the longest that is allowed.
        fallback: rows that went through the fallback model.
        resumed: rows that an earlier process had done.
        output, rejects: the files; None where there are none.
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
        """Of the rows done by this process."""
        return (self.rows - self.resumed) / max(self.times.total, 1e-9)

    def lines(self) -> list[str]:
        """As it is printed."""
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
