"""What launch parameters are tried on: the calls of a launcher, on inputs drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.harness import Sizes
from bench.timing import rotated


@dataclass(frozen=True)
class Problem:
    """One call of a launcher: the same work on several sets of inputs."""

    dtype: torch.dtype
    calls: Sequence[Callable[[], object]]


def problems(
    launcher: str, listed: list[Sizes], dtypes: Sequence[torch.dtype], device: torch.device, sets: int | None = None
) -> Iterator[Problem]:
    """Every call of a launcher at every shape and dtype, on inputs drawn at random; ``sets`` of them, by default as
    many as the L2 asks for."""
    from bench.audit.launches import calls

    for dtype, sizes in itertools.product(dtypes, listed):
        for call in calls(dtype, sizes["d"], sizes["G"], sizes["N"], sizes["L"]):
            if call.launcher == launcher:
                function = getattr(call.module, launcher)
                size = sum(t.nbytes for t in call.arguments if isinstance(t, Tensor))
                drawn = [_drawn(call.arguments, device) for _ in range(sets or rotated(size, device))]
                yield Problem(dtype, [lambda f=function, a=arguments: f(*a) for arguments in drawn])


def _drawn(arguments: tuple, device: torch.device) -> tuple:
    """Arguments on the device, floating ones at random. A tensor that stands twice among them stays one."""
    moved: dict[int, Tensor] = {}

    def move(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in moved:
            moved[id(value)] = torch.randn_like(value, device=device) if value.is_floating_point() else value.to(device)
        return moved[id(value)]

    return tuple(move(value) for value in arguments)
