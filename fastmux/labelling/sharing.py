"""Several processes that label one input: which shards are whose, and what one of them does for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Share:
    """This process's part of the work.

    Attributes:
        rank, world: its number, and how many there are.
        group: in which they talk; None for a process by itself.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> Share:
        """The share of a process in a group."""
        return cls() if group is None else cls(dist.get_rank(group), dist.get_world_size(group), group)

    def has(self, shard: int) -> bool:
        """Whether a shard is this process's."""
        return shard % self.world == self.rank

    def once(self, call: Callable[[], None]) -> None:
        """The first process calls, the others wait for it; what it raises, all of them raise."""
        problem: list[Exception | None] = [None]
        if self.rank == 0:
            try:
                call()
            except (ValueError, OSError) as error:
                problem = [error]
        if self.group is not None:
            dist.broadcast_object_list(problem, group=self.group, group_src=0)
        if problem[0] is not None:
            raise problem[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, once all have one."""
        values = [value] * self.world
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return values
