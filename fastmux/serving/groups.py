"""Which of the rows that wait share a group, and which groups share the next pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fastmux.labelling.labeller import Tokenised
from fastmux.passes.engine import Engine
from fastmux.passes.plan import plan_passes


@dataclass(eq=False)
class Waiting:
    """A row that waits for the model.

    Attributes:
        tenant: rows of others never share its group.
        copies: slots that it takes; rows that take another number never share its group.
        all_scores: its answer has every label's score.
        arrived: seconds, on the clock of the event loop.
        unsure: the model has seen it, and was not sure enough: it waits for the fallback.
        answer: gets an `Answer`, or the error of this row alone; is cancelled when nobody waits for it any more.
    """

    row: Tokenised
    tenant: str
    copies: int
    all_scores: bool
    arrived: float
    answer: asyncio.Future
    unsure: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that share the slots of one group, and how many there is room for."""

    rows: list[Waiting]
    room: int

    @property
    def length(self) -> int:
        return max(waiting.row.length for waiting in self.rows)

    @property
    def oldest(self) -> float:
        return min(waiting.arrived for waiting in self.rows)


@dataclass(frozen=True)
class Answer:
    """What the model says of a row, how full its group was, and whether the model was the fallback."""

    columns: dict
    rows: int
    room: int
    fallback: bool


def choose_groups(waiting: Iterable[Waiting], due: float, engine: Engine) -> list[Group]:
    """The groups of the next pass; none while it is better to wait.

    Rows of one tenant, and of one number of copies, are put into groups by their length. A group is ready when it is
    full, or when a row in it arrived at ``due`` or before. Of the groups that are ready those of like length go
    together, as many as the budget of positions allows; the one that has waited longest is always among them.

    Args:
        waiting: rows, in the order in which they arrived.
        due: seconds, on the clock of the event loop.
        engine: the model's.
    """
    ready = [
        group
        for group in _groups(waiting, engine.runtime.num_instances)
        if len(group.rows) == group.room or group.oldest <= due
    ]
    if not ready:
        return []
    lengths = np.array([group.length for group in ready])
    batches = plan_passes(lengths, engine.batch_tokens, replace(engine.layout, rows=1), engine.pass_tokens)
    oldest = min(range(len(ready)), key=lambda place: ready[place].oldest)
    return next([ready[place] for place in batch] for batch in batches if oldest in batch)


def _groups(waiting: Iterable[Waiting], slots: int) -> list[Group]:
    together: dict[tuple[str, int], list[Waiting]] = {}
    for one in waiting:
        together.setdefault((one.tenant, one.copies), []).append(one)
    groups = []
    for (_, copies), rows in together.items():
        room = slots // copies
        rows.sort(key=lambda one: -one.row.length)
        groups += [Group(rows[start : start + room], room) for start in range(0, len(rows), room)]
    return groups
