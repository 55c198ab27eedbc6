"""Prepare shards ahead of the model, in processes of their own.

Nothing here imports torch, so that such a process starts within a second and takes little memory.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context, parent_process
from typing import Any

import pyarrow

from fastmux.labelling.preparing import Preparation, PreparedShard
from fastmux.tables.shard import RawShard, serialised, table_of

#: How many shards are prepared ahead, in addition to one for each process.
_AHEAD = 2


class Ahead:
    """Prepares shards, in order, while the model runs on those before.

    Args:
        preparation: How a shard is prepared.
        num_workers: The number of processes; 0 for a thread. If None, there is one, and one more whenever the model has
            to wait for a shard, up to ``most``; but a thread where rows are token ids, which leaves nothing to do.
        most: The most processes; `spare_cores` if None.
    """

    def __init__(self, preparation: Preparation, num_workers: int | None, most: int | None = None):
        if num_workers is None and preparation.ids:
            num_workers = 0
        self.preparation = preparation
        self._grows = num_workers is None
        self._most = spare_cores() if most is None else most
        self._pools: list[Executor] = []
        if num_workers == 0:
            preparation.tokenizer.start()
            self._pools.append(ThreadPoolExecutor(1))
        for _ in range(1 if num_workers is None else num_workers):
            self._start_process()

    @property
    def num_workers(self) -> int:
        """The number of processes, or of threads."""
        return len(self._pools)

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that have begun."""
        return [pid for pool in self._pools for pid in getattr(pool, "_processes", None) or {}]

    def close(self) -> None:
        """Give up what is not prepared yet, and end the processes."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def prepared(self, shards: Iterable[RawShard]) -> Generator[tuple[RawShard, PreparedShard], None, None]:
        """Yield shards and what was prepared of them, in order.

        Raises:
            RuntimeError: A process that tokenises was killed, for example because memory ran out.
        """
        source, waiting, first = iter(shards), deque[tuple[RawShard, Executor, Future]](), True
        try:
            while True:
                while len(waiting) < self.num_workers + _AHEAD and (raw := next(source, None)) is not None:
                    waiting.append((raw, *self._submitted(raw, waiting)))
                if not waiting:
                    return
                raw, _, future = waiting.popleft()
                # For the first shard the model always waits.
                if self._grows and not first and not future.done() and self.num_workers < self._most:
                    self._start_process()
                first = False
                yield raw, future.result()
        except BrokenExecutor as error:
            raise RuntimeError(
                "a process that tokenises was killed, perhaps because memory ran out; what is done is kept, and the "
                "same command goes on from there (num_workers=0 starts no process, a smaller rows_per_shard takes less "
                "memory)"
            ) from error
        finally:
            self.close()

    def _start_process(self) -> None:
        self._pools.append(
            ProcessPoolExecutor(1, get_context("spawn"), initializer=_start_process, initargs=(self.preparation,))
        )

    def _submitted(self, raw: RawShard, waiting: Iterable[tuple[Any, Executor, Future]]) -> tuple[Executor, Future]:
        """Give a shard to whoever has the least to do."""
        busy = [pool for _, pool, future in waiting if not future.done()]
        pool = min(self._pools, key=busy.count)
        needed = self.preparation.needed(raw)
        if isinstance(pool, ThreadPoolExecutor):
            return pool, pool.submit(self.preparation, needed)
        if self.preparation.kind != "table":
            return pool, pool.submit(_prepare, needed, None)
        # Pickling a slice of a table would pickle the whole table.
        return pool, pool.submit(_prepare, replace(needed, rows=()), serialised(needed.rows))


def spare_cores() -> int:
    """The cores that this process may use but one, shared among the processes of a launcher on this machine; at least
    1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // (int(beside) if beside.isdigit() and int(beside) else 1) - 1)


_preparation: Preparation


def _start_process(preparation: Preparation) -> None:
    global _preparation
    # A parent that is killed cannot end its processes, which would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
    _preparation = preparation
    preparation.tokenizer.start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _prepare(raw: RawShard, table: pyarrow.Buffer | None) -> PreparedShard:
    return _preparation(raw if table is None else replace(raw, rows=table_of(table)))
