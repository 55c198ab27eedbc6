"""How long a call takes, on the device alone and by the clock on the wall, and how much memory it holds."""

from __future__ import annotations

import collections
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from bench.machine import default_device, synchronize
from fastmux.passes.timer import CLOCKS

DEVICE = default_device()
Key, Found = TypeVar("Key"), TypeVar("Found")

#: The shortest time that a turn measures; a single call may be longer.
TURN_SECONDS = 0.01
KEPT_RESULTS = 3
#: A captured graph has so many seconds of work for the device, and so many calls at most.
GRAPH_SECONDS, GRAPH_CALLS = 0.002, 64

#: A call of one implementation on one set of its inputs.
Call = Callable[[], object]


@dataclass
class Times:
    """Seconds of one call, with a value for each turn."""

    wall: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    @property
    def best_known(self) -> list[float]:
        """The device's times if they are known, because the host's share is not the implementation's."""
        return self.device or self.wall


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def rotated(keys: Collection[Key], turn: int) -> list[Key]:
    """The order of a turn: the first turn begins with the first of the keys, the next with the second, and so on."""
    listed, shift = list(keys), turn % max(1, len(keys))
    return listed[shift:] + listed[:shift]


def turn_by_turn(calls: Mapping[Key, Callable[[], Found]], turns: int) -> dict[Key, list[Found]]:
    """What each call returned, turn by turn. If the machine slows down, it does so for all of them."""
    found: dict[Key, list[Found]] = {key: [] for key in calls}
    for turn in range(turns):
        for key in rotated(calls, turn):
            found[key].append(calls[key]())
    return found


def medians(calls: Mapping[Key, Callable[[], float]], turns: int, unread: int = 0) -> dict[Key, float]:
    """The median of what each call returned, turn by turn, but for the first ``unread`` turns."""
    found = turn_by_turn(calls, turns + unread)
    return {key: statistics.median(values[unread:]) for key, values in found.items()}


def in_turns(calls: dict[str, Sequence[Call]], seconds: float, least: int = 5, clock: str = "wall") -> dict[str, Times]:
    """Times implementations in turns, in an order that rotates: if the machine slows down, all of them slow down.

    Args:
        calls: Implementation -> the same call on several sets of inputs, used in rotation. Each call has run before.
        seconds: How long the measurement lasts.
        least: The smallest number of turns, however long they take.
        clock: "wall", or "cpu" for this process's processor time, on a machine that others use too (one thread).

    Returns:
        Implementation -> its times. Turn i of one is beside turn i of another. ``device`` is empty on a CPU.
    """
    clocks = {name: _wall(sets, CLOCKS[clock]) for name, sets in calls.items()}
    graphs = {name: _device(sets) for name, sets in calls.items()} if DEVICE.type == "cuda" else {}
    times = {name: Times() for name in calls}
    end = time.perf_counter() + seconds
    for turn in itertools.count():
        if turn >= least and time.perf_counter() > end:
            return times
        for name in rotated(calls, turn):
            times[name].wall.append(clocks[name]())
            if graphs:
                times[name].device.append(graphs[name]())


def _wall(sets: Sequence[Call], clock: Callable[[], float]) -> Callable[[], float]:
    """A function that measures the seconds of a call, with its way through Python and to the device and back."""
    # The last results are kept, so that the next lie elsewhere: on a CPU a loop is a quarter slower where what it
    # writes and what it reads happen to agree in the last 12 bits of their addresses.
    turns, kept = itertools.cycle(sets), collections.deque(maxlen=KEPT_RESULTS)

    def measure(number: int) -> float:
        synchronize(DEVICE)
        start = clock()
        for _ in range(number):
            kept.append(next(turns)())
            synchronize(DEVICE)
        return (clock() - start) / number

    number = max(1, round(TURN_SECONDS / max(measure(1), 1e-6)))
    return lambda: measure(number)


def _device(sets: Sequence[Call]) -> Callable[[], float]:
    """A function that measures the seconds of a call on the GPU alone, by events around a captured graph of many calls.

    A call that cannot be captured, because it synchronizes for example, is timed by `triton.testing.do_bench`.
    """
    number = min(GRAPH_CALLS, max(len(sets), round(GRAPH_SECONDS / max(do_bench(sets), 1e-6))))
    graph, turns = torch.cuda.CUDAGraph(), itertools.cycle(sets)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with suppress(RuntimeError):
        with torch.cuda.graph(graph):
            for _ in range(number):
                next(turns)()
        graph.replay()

        def replayed() -> float:
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return 1e-3 * start.elapsed_time(end) / number

        replayed()
        return replayed
    torch.cuda.synchronize()
    return lambda: do_bench(sets)


def do_bench(sets: Sequence[Call], warmup: int = 2, rep: int = 5) -> float:
    """The median seconds of a call, on inputs that rotate, by `triton.testing.do_bench`; its times are milliseconds."""
    from triton import testing

    turns = itertools.cycle(sets)
    return 1e-3 * testing.do_bench(lambda: next(turns)(), warmup=warmup, rep=rep, return_mode="median")


def input_sets(size: int, device: torch.device) -> int:
    """How many sets of inputs of ``size`` bytes to rotate, so that a GPU's L2 cannot hold what the next call reads."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(64, max(2, -(-4 * cache // max(1, size))))


def peak_bytes(call: Call, device: torch.device = DEVICE) -> int:
    """The most bytes that the device's allocator adds to what it holds, during a call."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes), default=0)


@functools.cache
def copy_bandwidth(clock: str = "wall") -> float:
    """Bytes a second, read and written, of a large copy on the device. No op moves its bytes much faster."""
    source = torch.randn(2**28 if DEVICE.type == "cuda" else 2**25, device=DEVICE)
    target = torch.empty_like(source)

    times = in_turns({"copy": [lambda: target.copy_(source)]}, seconds=0.0, least=10, clock=clock)
    return 2 * source.nbytes / min(times["copy"].wall)
