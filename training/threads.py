"""The number of threads of a run: those that are free.

At the end of every operation the threads wait for each other, and a core that some other process holds makes all of
them wait: beside one busy process two threads on two cores are several times slower than one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

#: Environment variables that set the number of threads.
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
#: More threads must be faster by this much, or fewer do; and so much slower, nobody tries still more.
_WORTH, _HOPELESS = 0.9, 1.5
_SECONDS = 0.1


def choose_threads(measure: Callable[[int], float] | None = None) -> str:
    """Tries 1, 2, 4, ... threads, up to as many as torch would take, and sets the fewest that are about the fastest.

    Args:
        measure: Gives the seconds that a parallel piece of work takes on so many threads. By default, it is run.

    Returns:
        A sentence that says how many, and why.
    """
    most = torch.get_num_threads()
    asked = next((name for name in CHOSEN if os.environ.get(name)), None)
    if asked is not None:
        return f"threads: {most}, as {asked} says"
    if most == 1:
        return "threads: 1, of 1 core"
    measure = measure or _seconds
    took: dict[int, float] = {}
    for threads in sorted({2**power for power in range(most.bit_length())} | {most}):
        took[threads] = measure(threads)
        if took[threads] > _HOPELESS * min(took.values()):
            break
    chosen = next(threads for threads in took if took[threads] * _WORTH <= min(took.values()))
    torch.set_num_threads(chosen)
    times = ", ".join(f"{1e3 * seconds:.1f} ms on {threads}" for threads, seconds in took.items())
    why = ""
    if chosen < most:
        why = "; other processes hold cores" if max(took.values()) > took[1] else "; more are hardly faster"
    return f"threads: {chosen} of {most} (a piece of work took {times}{why}); OMP_NUM_THREADS sets another number"


def _seconds(threads: int) -> float:
    """The time of a small operation, such as a small encoder has, on so many threads."""
    data = {"x": torch.ones(2048, 64), "weight": torch.ones(64, 256)}
    timer = Timer("(x @ weight).relu().sum(-1)", globals=data, num_threads=threads)
    return timer.blocked_autorange(min_run_time=_SECONDS).median
