"""Put rows of many requests through one model: rows fill groups as they arrive, and one pass runs at a time.

While a pass runs in the worker thread, rows gather. The next pass takes those that have waited longest, and others of
like length. An idle model waits until a group is full, but at most ``max_wait`` from the arrival of the group's first
row. Rows of which the model is unsure wait again, for a pass of the fallback; the others do not wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from fastmux.embedding.embedder import Embedder
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.memory_rows import Tokenised
from fastmux.passes.engine import Engine
from fastmux.passes.grouping import group_rows
from fastmux.serving.groups import Answer, Group, Waiting, choose_groups
from fastmux.serving.metrics import Metrics

#: The rate is that of so many latest passes.
_RECENT = 20

log = logging.getLogger(__name__)


class ModelError(Exception):
    """The model failed on a row."""


class QueueFull(Exception):
    """Too many rows wait already."""


class Batcher:
    """The queue of rows for a model, and the thread that the model runs in.

    Args:
        labeller: The model.
        max_wait: The most seconds that a row waits for others to fill its group while the model is idle.
        max_queued_rows: The most rows that wait.
        metrics: Counts rows and times passes.
    """

    def __init__(self, labeller: Labeller | Embedder, max_wait: float, max_queued_rows: int, metrics: Metrics):
        self.labeller, self.max_wait, self.max_queued_rows = labeller, max_wait, max_queued_rows
        self.metrics = metrics
        self._waiting: dict[Waiting, None] = {}  # an ordered set
        self._arrived = asyncio.Event()
        self._hurrying = self._closing = False
        self._rate = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def __len__(self) -> int:
        """How many rows wait."""
        return len(self._waiting)

    async def start(self) -> None:
        """Begin to serve."""
        self._hurrying = self._closing = False
        self._worker = ThreadPoolExecutor(1, "model", _with_as_many_threads())
        self._ready = contextlib.ExitStack()
        for engine in self._engines():  # in the thread that runs the passes
            self._worker.submit(self._ready.enter_context, engine.runtime.ready()).result()
        self._task = asyncio.create_task(self._serve())

    async def warm_up(self, lengths: Sequence[int]) -> None:
        """Run passes of rows of these lengths, with one full group and with as many as a pass takes, so that no later
        pass is slow because it is the first of its size.

        Raises:
            ValueError: The model returns NaN or infinity.
        """
        await asyncio.get_running_loop().run_in_executor(self._worker, self._warm_up, lengths)

    def _engines(self) -> list[Engine]:
        engine = self.labeller.engine
        return [engine] + ([] if engine.fallback is None else [engine.fallback])

    def _warm_up(self, lengths: Sequence[int]) -> None:
        for again, engine in enumerate(self._engines()):
            instances, layout = engine.runtime.num_instances, engine.layout
            engine.runtime.prepare(max(lengths), engine.batch_tokens)
            for length in lengths:
                row = self.labeller.of_length(length)
                positions = layout.sequences * (max(length, layout.least) + layout.prefix)
                for groups in (1, max(1, engine.batch_tokens // positions)):
                    count = groups * instances
                    slots = group_rows(np.arange(count), instances)
                    self.labeller.label([row] * count, slots, [False] * count, bool(again))

    def hurry(self) -> None:
        """From now on, let no row wait for others."""
        self._hurrying = True
        self._arrived.set()

    async def close(self) -> None:
        """Answer all rows that wait, and end."""
        self._closing = True
        self.hurry()
        await self._task
        self._worker.submit(self._ready.close).result()
        self._worker.shutdown()

    def submit(
        self, rows: Sequence[Tokenised], tenant: str, copies: int, all_scores: bool
    ) -> list[asyncio.Future[Answer]]:
        """Queue rows; returns futures of their answers. Cancel one before its row is in a pass, and the row costs none.

        Raises:
            QueueFull: There is no room for all rows.
        """
        if not self.has_room(len(rows)):
            raise QueueFull
        loop = asyncio.get_running_loop()
        taken = [Waiting(row, tenant, copies, all_scores, loop.time(), loop.create_future()) for row in rows]
        for waiting in taken:
            waiting.answer.add_done_callback(lambda answer, waiting=waiting: self._forget(waiting))
            self._waiting[waiting] = None
        self._arrived.set()
        return [waiting.answer for waiting in taken]

    def has_room(self, more: int) -> bool:
        """Whether so many more rows may wait."""
        return len(self._waiting) + more <= self.max_queued_rows

    def seconds_for(self, more: int) -> float:
        """An estimate of the time until all waiting rows and so many more are answered, by the latest passes' rate."""
        return (len(self._waiting) + more) / self._rate if self._rate else 0.0

    def _forget(self, waiting: Waiting) -> None:
        if waiting in self._waiting:  # its client left
            del self._waiting[waiting]
            self.metrics.rows.labels("dropped").inc()

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            try:
                await self._step()
            except Exception as error:  # a bug: tell those who wait, and go on serving
                log.exception("rows could not be put into groups")
                for waiting in list(self._waiting):
                    self._finish(waiting, error)

    async def _step(self) -> None:
        """Run one pass, or wait until there may be one to run."""
        self._arrived.clear()
        loop = asyncio.get_running_loop()
        due = math.inf if self._hurrying else loop.time() - self.max_wait
        groups = self._next_groups(due)
        if not groups:
            first = next(iter(self._waiting), None)
            with contextlib.suppress(asyncio.TimeoutError):
                left = None if first is None else max(0.0, first.arrived - due)
                await asyncio.wait_for(self._arrived.wait(), left)
            return
        for group in groups:
            self.metrics.group_fill.observe(len(group.rows) / group.room)
            for waiting in group.rows:
                del self._waiting[waiting]
        start = time.perf_counter()
        found = await loop.run_in_executor(self._worker, self._answers, groups)
        self._recent.append((sum(outcome is not None for outcome in found), time.perf_counter() - start))
        answered, seconds = map(sum, zip(*self._recent, strict=True))
        self._rate = answered / max(1e-9, seconds)
        rows = [(waiting, group) for group in groups for waiting in group.rows]
        for (waiting, group), outcome in zip(rows, found, strict=True):
            if outcome is None:
                self._wait_again(waiting)
            elif isinstance(outcome, ModelError):
                self._finish(waiting, outcome)
            else:
                self._finish(waiting, Answer(outcome, len(group.rows), group.room, waiting.unsure))

    def _next_groups(self, due: float) -> list[Group]:
        """The next groups of the model or of the fallback, whichever has a row that has waited longer."""
        fresh = [waiting for waiting in self._waiting if not waiting.unsure]
        engine = self.labeller.engine
        chosen = [choose_groups(fresh, due, engine)]
        if engine.fallback is not None:
            again = [waiting for waiting in self._waiting if waiting.unsure]
            chosen.append(choose_groups(again, math.inf, engine.fallback))
        return min(filter(None, chosen), key=lambda groups: min(group.oldest for group in groups), default=[])

    def _wait_again(self, waiting: Waiting) -> None:
        """Queue a row for the fallback. If that is multiplexed too, the row has a group for itself."""
        if not waiting.answer.done():
            waiting.unsure, waiting.copies = True, self.labeller.engine.fallback.runtime.num_instances
            self._waiting[waiting] = None

    def _finish(self, waiting: Waiting, outcome: Answer | Exception) -> None:
        self._waiting.pop(waiting, None)
        if waiting.answer.done():  # its client left while the pass ran
            return
        if isinstance(outcome, Exception):
            self.metrics.rows.labels("failed").inc()
            waiting.answer.set_exception(outcome)
        else:
            self.metrics.rows.labels("answered").inc()
            self.metrics.fallback_rows.inc(outcome.fallback)
            waiting.answer.set_result(outcome)

    def _answers(self, groups: list[Group]) -> Sequence[dict | ModelError | None]:
        """For each row of some groups its columns, its error, or None if it needs the fallback. Runs in the worker
        thread."""
        rows = [waiting for group in groups for waiting in group.rows]
        try:
            with self.metrics.pass_seconds.time():
                slots, every = self._slots(groups), [waiting.all_scores for waiting in rows]
                return self.labeller.label([waiting.row for waiting in rows], slots, every, rows[0].unsure)
        except Exception as error:
            if len(rows) == 1:
                failed = ModelError(f"the model failed: {type(error).__name__}: {error}")
                log.error(failed)
                return [failed]
            # One row may be the cause: run each half again, and so on, until that row is alone.
            if len(groups) == 1:
                groups = [Group([waiting], groups[0].room) for waiting in rows]
            half = len(groups) // 2
            return [*self._answers(groups[:half]), *self._answers(groups[half:])]

    def _slots(self, groups: list[Group]) -> np.ndarray:
        """(G, N), the place of each slot's row."""
        slots, start = [], 0
        instances = self._engines()[groups[0].rows[0].unsure].runtime.num_instances
        for group in groups:
            count = len(group.rows)
            slots.append(group_rows(np.arange(start, start + count), instances, group.rows[0].copies))
            start += count
        return np.concatenate(slots)


def _with_as_many_threads() -> Callable[[], None] | None:
    """Called in another thread, gives torch as many threads there as here: it keeps their number per thread."""
    torch = sys.modules.get("torch")  # an exported model runs without it
    return None if torch is None else partial(torch.set_num_threads, torch.get_num_threads())
