"""Ahead of the model, in a process of its own: a shard is parsed and tokenised, and what is no row is put aside.

Nothing here imports torch: a process that tokenises starts in a second and takes little memory.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np

from fastmux.labelling.checks import check_text, check_words, length_problem
from fastmux.labelling.formats import Format
from fastmux.labelling.rows import Reject, Row, parse_rows, shown
from fastmux.labelling.shard import RawShard
from fastmux.labelling.tokens import Encoder, Input
from fastmux.passes.tokens import Tokens

#: Shards that are ready or being made ready, beside one for each process.
_AHEAD = 2


@dataclass
class PreparedShard:
    """What the model and the writer need of a shard.

    Attributes:
        rows: how many the shard has, good and bad.
        heads: of the good ones, what `Format.head` made of them.
        tokens: of the good ones.
        cut: how many of them were cut to the longest that is allowed.
        seconds: that this took.
    """

    index: int
    rows: int
    digest: str
    share: float | None
    heads: list
    tokens: Tokens
    rejects: list[Reject]
    cut: int
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """How a shard is made ready.

    Args:
        kind, columns: of the source.
        column, pair_column: what is labelled.
        new_columns: names that no row may have.
        words: texts are words between single spaces.
        encoder: of the inputs.
        form: of the rows that are written.
    """

    kind: str
    columns: list[str] | None
    column: str
    pair_column: str | None
    new_columns: tuple[str, ...]
    words: bool
    encoder: Encoder
    form: Format

    def __call__(self, raw: RawShard) -> PreparedShard:
        start = time.perf_counter()
        rejects: list[Reject] = []
        good: list[tuple[Row, Input, Any]] = []
        for row in parse_rows(raw, self.kind, self.columns):
            if isinstance(row, Reject):
                rejects.append(row)
                continue
            try:
                good.append((row, self._input(row), self.form.head(row)))
            except ValueError as error:
                rejects.append(self._reject(row, str(error)))
        tokens, cut = self.encoder.encode([given for _, given, _ in good])
        bad = {}
        for place, length in enumerate(tokens.lengths.tolist()):
            if reason := length_problem(length, self.encoder.max_length):
                bad[place] = reason
        rejects.extend(self._reject(good[place][0], reason) for place, reason in bad.items())
        heads = [head for place, (_, _, head) in enumerate(good) if place not in bad]
        return PreparedShard(
            raw.index,
            len(raw.rows),
            raw.digest,
            raw.share,
            heads,
            tokens.select(np.array([row for row in range(len(good)) if row not in bad], np.int64)) if bad else tokens,
            sorted(rejects, key=lambda reject: reject.number),
            cut,
            time.perf_counter() - start,
        )

    def _reject(self, row: Row, reason: str) -> Reject:
        return Reject(row.number, reason, shown(row.source or str(row.values.get(self.column, row.values))))

    def _input(self, row: Row) -> Input:
        for name in self.new_columns:
            if name in row.values:
                raise ValueError(f"has a column {name!r} already (prefix gives the new columns other names)")
        if self.encoder.words == "given" and not self.words:
            return check_words(f"column {self.column!r}", row.values.get(self.column))
        text = self._text(row.values, self.column)
        if self.words:
            return text.split(" ")
        return text if self.pair_column is None else (text, self._text(row.values, self.pair_column))

    def _text(self, values: dict, name: str) -> str:
        if name not in values:
            raise ValueError(f"has no column {name!r}, but {', '.join(map(repr, values)) or 'none'}")
        return check_text(f"column {name!r}", values[name])


_preparation: Preparation


def _start(preparation: Preparation) -> None:
    global _preparation
    _preparation = preparation
    preparation.encoder.start()


def _start_process(preparation: Preparation) -> None:
    # A parent that is killed tells nobody: its processes would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends in its own way, and this with it
    _start(preparation)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _prepare(raw: RawShard) -> PreparedShard:
    return _preparation(raw)


def executor(preparation: Preparation, num_workers: int) -> Executor:
    """What runs `prepared`: so many processes, or a thread."""
    if num_workers == 0:
        preparation.encoder.start()
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_start_process, initargs=(preparation,)
    )


def prepared(
    shards: Iterable[RawShard], preparation: Preparation, pool: Executor, num_workers: int
) -> Generator[PreparedShard, None, None]:
    """Shards made ready, in their order, a few ahead of whoever takes them.

    Raises:
        RuntimeError: a process that tokenises has ended, as when memory is out.
    """
    work = preparation if num_workers == 0 else _prepare
    source, waiting = iter(shards), deque[Future]()
    try:
        while True:
            while len(waiting) < num_workers + _AHEAD and (raw := next(source, None)) is not None:
                waiting.append(pool.submit(work, raw))
            if not waiting:
                return
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise RuntimeError(
            "a process that tokenises was killed, perhaps for want of memory; what is labelled is kept, and the same "
            "command goes on from there (num_workers=0 takes no other process, rows_per_shard less memory)"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
