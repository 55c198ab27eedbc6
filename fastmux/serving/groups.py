"""Choose which waiting rows share a group, and which groups share the next pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fastmux.labelling.memory_rows import Tokenised
from fastmux.passes.engine import Engine
from fastmux.passes.plan import plan_passes


@dataclass(eq=False)
class Waiting:
    """A row that waits for the model.

    Attributes:
        row: The row with its tokens.
        tenant: Rows of other tenants never share its group.
        copies: How many slots it takes. Rows with another number never share its group.
        all_scores: Whether its answer has the scores of all labels.
        arrived: When it arrived, in seconds on the event loop's clock.
        answer: A future of an `Answer`, or of this row's error. It is cancelled when the client has left.
        unsure: Whether the model was unsure of it, so that it waits for the fallback.
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
    """Rows that share one group, and the number of rows that it has room for."""

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
    """The columns of a row's answer, how full its group was, and whether the fallback answered."""

    columns: dict
    rows: int
    room: int
    fallback: bool


def choose_groups(waiting: Iterable[Waiting], due: float, engine: Engine) -> list[Group]:
    """The groups of the next pass; none while it is better to wait.

    Rows with the same tenant and number of copies are put into groups by length. A group is ready when it is full, or
    when one of its rows arrived at ``due`` or before. Ready groups of like length share the pass, as many as the budget
    of positions allows; the group that has waited longest is always among them.

    Args:
        waiting: Rows in the order of their arrival.
        due: A time in seconds on the event loop's clock.
        engine: The engine that runs the model.
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
