"""How many threads a run takes: those that are free.

At the end of every operation the threads wait for each other, and a core that some other process holds makes all of
them wait: beside one busy process two threads on two cores are several times slower than one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import torch

#: Whoever sets one of these has chosen.
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
#: More threads must be faster by this much, or fewer do; and so much slower, nobody tries still more.
_WORTH, _HOPELESS = 0.9, 1.5
_SECONDS = 0.1


def choose_threads(measure: Callable[[int], float] | None = None) -> str:
    """Tries 1, 2, 4, ... threads, up to as many as torch would take, and sets the fewest that are about the fastest.

    Args:
        measure: seconds that a parallel piece of work takes on so many threads; by default this machine is asked.

    Returns:
        How many, and why, in a sentence.
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
    """Median of some rounds of small operations, as a step of a small encoder has them."""
    torch.set_num_threads(threads)
    x, weight = torch.ones(2048, 64), torch.ones(64, 256)
    rounds: list[float] = []
    ends = None
    while ends is None or len(rounds) < 3 or (time.perf_counter() < ends and len(rounds) < 50):
        started = time.perf_counter()
        for _ in range(4):
            (x @ weight).relu().sum(-1)
        if ends is None:  # the first round starts the threads
            ends = time.perf_counter() + _SECONDS
        else:
            rounds.append(time.perf_counter() - started)
    return median(rounds)
