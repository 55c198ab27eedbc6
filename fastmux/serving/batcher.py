"""Rows of many requests through one model: groups are filled as rows come, and one pass runs at a time.

While a pass runs in the worker thread, rows gather; then those that wait longest, and others of like length, go next.
An idle model waits for a group to be full, but no longer than ``max_wait`` from the arrival of its first row. Rows that
the model is unsure of wait once more, for a pass of the fallback; those that it is sure of do not wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from fastmux.labelling.labeller import Labeller, Tokenised
from fastmux.passes.engine import Engine
from fastmux.passes.grouping import group_rows
from fastmux.serving.groups import Answer, Group, Waiting, choose_groups
from fastmux.serving.metrics import Metrics

#: Passes by which the rate is told.
_RECENT = 20

log = logging.getLogger(__name__)


class ModelError(Exception):
    """The model failed on a row."""


class QueueFull(Exception):
    """So many rows wait already that no more are taken."""


class Batcher:
    """The rows that wait for a model, and the thread that it runs in.

    Args:
        labeller: the model.
        max_wait: seconds that a row waits for others to fill its group while the model is idle.
        max_queued_rows: rows that wait, at most.
    """

    def __init__(self, labeller: Labeller, max_wait: float, max_queued_rows: int, metrics: Metrics):
        self.labeller, self.max_wait, self.max_queued_rows = labeller, max_wait, max_queued_rows
        self.metrics = metrics
        self._waiting: dict[Waiting, None] = {}  # an ordered set
        self._arrived = asyncio.Event()
        self._hurrying = self._closing = False
        self._rate = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def __len__(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    async def start(self) -> None:
        """Begin to serve."""
        self._hurrying = self._closing = False
        # What torch does in parallel is counted by thread.
        threads = torch.get_num_threads()
        self._worker = ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))
        self._ready = contextlib.ExitStack()
        for engine in self._engines():  # in the thread whose passes these are
            self._worker.submit(self._ready.enter_context, engine.runtime.ready()).result()
        self._task = asyncio.create_task(self._serve())

    async def warm_up(self, lengths: Sequence[int]) -> None:
        """Passes of rows of so many tokens, in full groups, as many as a pass takes: nothing is slow later for being
        the first of its kind.

        Raises:
            ValueError: the model returns NaN or infinity.
        """
        await asyncio.get_running_loop().run_in_executor(self._worker, self._warm_up, lengths)

    def _engines(self) -> list[Engine]:
        engine = self.labeller.engine
        return [engine] + ([] if engine.fallback is None else [engine.fallback])

    def _warm_up(self, lengths: Sequence[int]) -> None:
        for again, engine in enumerate(self._engines()):
            instances, layout = engine.runtime.num_instances, engine.layout
            for length in lengths:
                row = self.labeller.of_length(length)
                positions = layout.sequences * (max(length, layout.least) + layout.prefix)
                for groups in (1, max(1, engine.batch_tokens // positions)):
                    count = groups * instances
                    slots = group_rows(np.arange(count), instances)
                    self.labeller.label([row] * count, slots, [False] * count, bool(again))

    def hurry(self) -> None:
        """From now on no row waits for others."""
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
        """Their answers to come; one that is cancelled before its row is in a pass costs none.

        Raises:
            QueueFull: there is no room for all of them.
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
        """Until all rows that wait now are answered, and so many more, by the rate of the latest passes."""
        return (len(self._waiting) + more) / self._rate if self._rate else 0.0

    def _forget(self, waiting: Waiting) -> None:
        if waiting in self._waiting:  # its client left
            del self._waiting[waiting]
            self.metrics.rows.labels("dropped").inc()

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            try:
                await self._step()
            except Exception as error:  # of ours: whoever waits must hear of it, and the next are served
                log.exception("rows could not be put into groups")
                for waiting in list(self._waiting):
                    self._finish(waiting, error)

    async def _step(self) -> None:
        """A pass, or what there is to wait for before the next."""
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
        """Of the model, or of the fallback: whichever has a row that has waited longer."""
        fresh = [waiting for waiting in self._waiting if not waiting.unsure]
        engine = self.labeller.engine
        chosen = [choose_groups(fresh, due, engine)]
        if engine.fallback is not None:
            again = [waiting for waiting in self._waiting if waiting.unsure]
            chosen.append(choose_groups(again, math.inf, engine.fallback))
        return min(filter(None, chosen), key=lambda groups: min(group.oldest for group in groups), default=[])

    def _wait_again(self, waiting: Waiting) -> None:
        """For the fallback; alone in its group, should that be multiplexed too."""
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
        """The columns of every row of some groups, its error, or None where the fallback is needed. In the worker
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
            # One row may be the cause: half of them go again, and the other half, until it is alone.
            if len(groups) == 1:
                groups = [Group([waiting], groups[0].room) for waiting in rows]
            half = len(groups) // 2
            return [*self._answers(groups[:half]), *self._answers(groups[half:])]

    def _slots(self, groups: list[Group]) -> np.ndarray:
        """(G, N), the place of the row in every slot."""
        slots, start = [], 0
        instances = self._engines()[groups[0].rows[0].unsure].runtime.num_instances
        for group in groups:
            count = len(group.rows)
            slots.append(group_rows(np.arange(start, start + count), instances, group.rows[0].copies))
            start += count
        return np.concatenate(slots)
