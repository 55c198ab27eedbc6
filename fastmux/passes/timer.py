"""Measure speed: several ways to answer the same rows take turns, several times each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: The time on the clock, and the time that the processor worked, for a machine that runs other programs too.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Rate:
    """Rows a second.

    Attributes:
        rows_per_second: The median of all turns.
        slowest: The rate of the slowest turn.
        fastest: The rate of the fastest turn.
    """

    rows_per_second: float
    slowest: float
    fastest: float


def rates(
    contestants: Mapping[str, Callable[[], object]],
    rows: int,
    *,
    repeats: int = 5,
    clock: str = "wall",
    on_turn: Callable[[], None] = lambda: None,
) -> dict[str, Rate]:
    """Measure the rate of each contestant. They take turns, so that a busy moment of the machine slows all of them.

    Args:
        contestants: By name, a function that answers all rows and returns when they are answered.
        rows: How many rows a call answers.
        repeats: The number of turns that count; one turn before them warms up.
        clock: One of `CLOCKS`.
        on_turn: Called after every call, (repeats + 1) times the number of contestants in all.

    Example:
        >>> from fastmux.passes.timer import rates
        >>> found = rates({"sum": lambda: sum(range(1000)), "max": lambda: max(range(1000))}, rows=1000, repeats=3)
        >>> found["sum"].slowest <= found["sum"].rows_per_second <= found["sum"].fastest
        True
    """
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, call in contestants.items():
            start = now()
            call()
            if turn:
                times[name].append(max(now() - start, 1e-9))
            on_turn()
    return {
        name: Rate(rows / statistics.median(values), rows / max(values), rows / min(values))
        for name, values in times.items()
    }
