"""Parse and tokenise shards ahead of the model, in processes of their own, and set aside what cannot be labelled.

Nothing here imports torch, so that such a process starts within a second and takes little memory.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process

import numpy as np
import pyarrow

from fastmux.labelling.checks import check_text, check_words
from fastmux.labelling.row_tokenizer import Input, RowTokenizer
from fastmux.passes.tokens import Tokens
from fastmux.tables.parsing import column_values, parse_lines
from fastmux.tables.shard import RawShard, serialised, table_of
from fastmux.tables.writers import Heads, Writer

#: How many shards are prepared ahead, in addition to one for each process.
_AHEAD = 2


@dataclass
class PreparedShard:
    """What the model and the writer need of a shard, in addition to its rows.

    Attributes:
        heads: The input's columns of all rows; None if rows are written as they were read.
        tokens: The tokens of the rows that can be labelled.
        problems: For each other row, by its place in the shard, why it cannot be labelled.
        unread: The places of lines that could not be parsed.
        cut: The number of rows that were cut to the tokenizer's ``max_length``.
        seconds: The time that this took.
    """

    heads: Heads | None
    tokens: Tokens
    problems: dict[int, str]
    unread: set[int]
    cut: int
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """How a shard is prepared.

    Args:
        kind: The source's kind.
        columns: The source's columns.
        names: The names of the column that is labelled and, for pairs, of the column of the second text.
        places: The places of these columns in a table.
        words: Split texts at single spaces into words.
        tokenizer: Tokenises the rows.
        writer: Writes the rows.
    """

    kind: str
    columns: list[str] | None
    names: tuple[str, ...]
    places: tuple[int, ...]
    words: bool
    tokenizer: RowTokenizer
    writer: Writer

    def needed(self, raw: RawShard) -> RawShard:
        """The shard with only what is needed here."""
        return raw.select(self.places) if self.kind == "table" and self.writer.keeps else raw

    def __call__(self, raw: RawShard) -> PreparedShard:
        start = time.perf_counter()
        fields, unread, heads = self._of_table(raw.rows) if self.kind == "table" else self._of_lines(raw.rows)
        problems: dict[int, str] = {}
        inputs: list[Input] = []
        places: list[int] = []
        alone = len(self.names) == 1 and not self.tokenizer.words
        for place, row in enumerate(fields):
            if alone and type(row) is str and row.isascii() and "\0" not in row and row and not row.isspace():
                inputs.append(row)  # most rows
                places.append(place)
                continue
            try:
                if isinstance(row, ValueError) and self.kind != "table":
                    raise row
                inputs.append(self._input((row,) if len(self.names) == 1 else row))
            except ValueError as error:
                problems[place] = str(error)
            else:
                places.append(place)
        tokens, cut = self.tokenizer.encode(inputs)
        bad = set()
        if len(tokens.lengths) and not 0 < tokens.lengths.min() <= tokens.lengths.max() <= self.tokenizer.max_length:
            for number, length in enumerate(tokens.lengths.tolist()):
                if reason := self.tokenizer.length_problem(length):
                    bad.add(number)
                    problems[places[number]] = reason
        if bad:
            tokens = tokens.select(np.array([row for row in range(len(places)) if row not in bad], np.int64))
        return PreparedShard(heads, tokens, problems, unread, int(cut.sum()), time.perf_counter() - start)

    def _of_lines(self, rows: Sequence[bytes]) -> tuple[list, set[int], Heads | None]:
        """For each row the value to label, or why it cannot be parsed; the places of the latter; and the heads.

        The value is a tuple for pairs. Parsed rows are dropped as soon as possible, because Python's garbage collector
        takes time for every object that is alive.
        """
        parsed: Iterable[dict | ValueError] = parse_lines(rows, self.kind, self.columns, self.names, self.writer.exact)
        heads = None
        if not self.writer.keeps:
            parsed = list(parsed)
            heads = self.writer.heads([None if isinstance(row, ValueError) else row for row in parsed])
        fields: list = []
        unread = set()
        column, pair = self.names[0], self.names[1:]
        for row in parsed:
            if isinstance(row, ValueError):
                unread.add(len(fields))
                fields.append(row)
                continue
            try:
                fields.append((row[column], row[pair[0]]) if pair else row[column])
            except KeyError as error:
                there = ", ".join(map(repr, row)) or "none"
                fields.append(ValueError(f"has no column {error}, but {there}"))
        return fields, unread, heads

    def _of_table(self, table: pyarrow.Table) -> tuple[list, set[int], Heads | None]:
        kept = self.writer.keeps
        columns = [table.column(number if kept else place) for number, place in enumerate(self.places)]
        heads = None if kept else self.writer.heads_of_table(table)
        values = [column_values(column) for column in columns]
        return values[0] if len(values) == 1 else list(zip(*values, strict=True)), set(), heads

    def _input(self, row: tuple) -> Input:
        for name, value in zip(self.names, row, strict=True):
            if isinstance(value, ValueError):
                raise ValueError(f"column {name!r} {value}")
        if self.tokenizer.words == "given" and not self.words:
            return check_words(f"column {self.names[0]!r}", row[0])
        texts = [check_text(f"column {name!r}", value) for name, value in zip(self.names, row, strict=True)]
        if self.words:
            return texts[0].split(" ")
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])


_preparation: Preparation


def _start(preparation: Preparation) -> None:
    global _preparation
    _preparation = preparation
    preparation.tokenizer.start()


def _start_process(preparation: Preparation) -> None:
    # A parent that is killed cannot end its processes, which would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
    _start(preparation)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _prepare(raw: RawShard, table: pyarrow.Buffer | None) -> PreparedShard:
    return _preparation(raw if table is None else replace(raw, rows=table_of(table)))


def executor(preparation: Preparation, num_workers: int) -> Executor:
    """An executor for `prepared`: so many processes, or one thread if 0."""
    if num_workers == 0:
        preparation.tokenizer.start()
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_start_process, initargs=(preparation,)
    )


def prepared(
    shards: Iterable[RawShard], preparation: Preparation, pool: Executor, num_workers: int
) -> Generator[tuple[RawShard, PreparedShard], None, None]:
    """Yield shards and what was prepared of them, in order; a few shards are prepared ahead.

    Raises:
        RuntimeError: A process that tokenises was killed, for example because memory ran out.
    """

    def submit(raw: RawShard) -> Future:
        needed = preparation.needed(raw)
        if num_workers == 0:
            return pool.submit(preparation, needed)
        if preparation.kind != "table":
            return pool.submit(_prepare, needed, None)
        # Pickling a slice of a table would pickle the whole table.
        return pool.submit(_prepare, replace(needed, rows=()), serialised(needed.rows))

    source, waiting = iter(shards), deque[tuple[RawShard, Future]]()
    try:
        while True:
            while len(waiting) < num_workers + _AHEAD and (raw := next(source, None)) is not None:
                waiting.append((raw, submit(raw)))
            if not waiting:
                return
            raw, future = waiting.popleft()
            yield raw, future.result()
    except BrokenExecutor as error:
        raise RuntimeError(
            "a process that tokenises was killed, perhaps because memory ran out; what is done is kept, and the "
            "same command goes on from there (num_workers=0 starts no process, a smaller rows_per_shard takes less "
            "memory)"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
