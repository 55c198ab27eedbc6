"""Several processes that label one input: which process has which shard, and what one of them does for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist


@dataclass(frozen=True)
class Share:
    """This process's part of the work.

    Attributes:
        rank: The number of this process, from 0.
        world: The number of processes.
        group: The group of the processes; None if there is only one.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> Share:
        """The share of this process in a group."""
        if group is None:
            return cls()
        import torch.distributed as dist

        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def has(self, shard: int) -> bool:
        """Whether this process labels a shard."""
        return shard % self.world == self.rank

    def once(self, call: Callable[[], None]) -> None:
        """Call in the first process while the others wait. An error that it raises is raised in all."""
        problem: list[Exception | None] = [None]
        if self.rank == 0:
            try:
                call()
            except (ValueError, OSError) as error:
                problem = [error]
        if self.group is not None:
            import torch.distributed as dist

            dist.broadcast_object_list(problem, group=self.group, group_src=0)
        if problem[0] is not None:
            raise problem[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.world
        if self.group is not None:
            import torch.distributed as dist

            dist.all_gather_object(values, value, group=self.group)
        return values
