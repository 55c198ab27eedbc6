"""A run of `fastmux.predict` or `fastmux.embed`, once all is decided: one shard after the other."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow
from tqdm.auto import tqdm

from fastmux.labelling.ahead import Ahead
from fastmux.labelling.labelling_report import LabellingReport, Reject, processor_seconds
from fastmux.labelling.preparing import Preparation, PreparedShard
from fastmux.labelling.settings import RowSettings
from fastmux.labelling.shard_folder import ShardFolder
from fastmux.labelling.sharing import Share
from fastmux.passes.engine import Engine
from fastmux.passes.tokens import Tokens
from fastmux.tables.opening import Source
from fastmux.tables.parsing import whole_row
from fastmux.tables.shard import RawShard, Sizes
from fastmux.tables.writers import Heads, Writer, with_columns

if TYPE_CHECKING:
    import datasets

#: The name of the column that says why a row has no label.
REASON = "error"


class Answering(Protocol):
    """Turns what a model returns into the new columns."""

    def of(self, logits: np.ndarray, tokens: Tokens) -> dict[str, Any]:
        """The values of the new columns, by name: a list, or an array of Arrow."""


@dataclass
class Job:
    """Everything that is decided before the first row is labelled.

    Attributes:
        types: The types of the new columns, by name.
    """

    settings: RowSettings
    source: Source
    writer: Writer
    engine: Engine
    answers: Answering
    types: dict[str, pyarrow.DataType]
    preparation: Preparation
    sizes: Sizes
    fingerprint: dict

    def run(self, folder: ShardFolder, report: LabellingReport, share: Share, disable_tqdm: bool) -> None:
        """Label what is not labelled yet, and put all shards together."""
        digests: list[str] = []

        def new(raw: RawShard) -> bool:
            digests.append(raw.digest)
            if not share.has(raw.index):
                return False
            record = folder.record(raw.index, raw.digest)
            if record is not None:
                report.add(record)
                report.resumed += record["rows"]
            return record is None

        for raw, shard, values, fallback in self._labelled(report, share, disable_tqdm, new):
            start = time.perf_counter()
            record = {"digest": raw.digest, **_counts(raw, shard, fallback)}
            write = partial(self.writer.write, heads=self._heads(raw, shard), types=self.types, new=values)
            folder.commit(raw.index, write, _rejects(raw, shard), record)
            report.times.writing += time.perf_counter() - start
            report.add(record)
        start = time.perf_counter()
        everywhere = share.gathered((digests, report))
        if any(read != digests for read, _ in everywhere):
            raise ValueError(f"the processes that label {self.source.name} have read different rows")
        for rank, (_, other) in enumerate(everywhere):
            if rank != share.rank:
                report.add(vars(other))
                report.resumed += other.resumed
        share.once(lambda: folder.finish(len(digests)))
        report.output = str(folder.output)
        report.rejects = str(folder.rejects) if report.rejected else None
        report.times.writing += time.perf_counter() - start
        report.times.total += time.perf_counter() - start

    def run_in_memory(self, report: LabellingReport, disable_tqdm: bool) -> tuple[datasets.Dataset, list[Reject]]:
        """Label everything, and return it with the list of rejected rows."""
        import datasets

        tables, rejects = [], []
        for raw, shard, values, fallback in self._labelled(report, Share(), disable_tqdm, lambda raw: True):
            report.add(_counts(raw, shard, fallback))
            tables.append(with_columns(self._heads(raw, shard), self.types, values))
            rejects.extend(_rejects(raw, shard))
        return datasets.Dataset(pyarrow.concat_tables(tables)), rejects

    def _heads(self, raw: RawShard, shard: PreparedShard) -> Heads:
        """The input's columns of the rows that come out."""
        heads = self.writer.kept(raw.rows, shard.unread) if shard.heads is None else shard.heads
        if self.settings.rejected != "drop" or not shard.problems:
            return heads
        left = [place for place in range(len(raw.rows)) if place not in shard.problems]
        if not isinstance(heads, pyarrow.Table):
            return [heads[place] for place in left]
        # Arrow cannot filter every type, but it can concatenate slices of any.
        ends = [-1, *sorted(shard.problems), len(raw.rows)]
        parts = [heads.slice(a + 1, b - a - 1) for a, b in itertools.pairwise(ends)]
        return pyarrow.concat_tables(parts)

    def _values(self, raw: RawShard, shard: PreparedShard, answers: dict[str, Any]) -> dict[str, Any]:
        """The new columns of the rows that come out. A rejected row has null there, and perhaps the reason."""
        rows, kept = len(raw.rows), self.settings.rejected
        if shard.problems and kept != "drop":
            numbers = itertools.count()
            places = [None if place in shard.problems else next(numbers) for place in range(rows)]
            for name, values in answers.items():
                if isinstance(values, pyarrow.Array):
                    answers[name] = values.take(pyarrow.array(places, pyarrow.int64()))
                else:
                    answers[name] = [None if place is None else values[place] for place in places]
        if kept == "reason":
            answers[self.settings.prefix + REASON] = [shard.problems.get(place) for place in range(rows)]
        return answers

    def _labelled(
        self, report: LabellingReport, share: Share, disable_tqdm: bool, new: Callable[[RawShard], bool]
    ) -> Iterator[tuple[RawShard, PreparedShard, dict, int]]:
        """Yield each new shard, what was prepared of it, its new columns, and how many rows the fallback answered."""
        times = report.times
        begin, processor = time.perf_counter(), processor_seconds()
        total = None if self.source.total is None else self.source.total // share.world
        bar = tqdm(total=total, unit="row", smoothing=0, disable=disable_tqdm or share.rank > 0)
        source = (raw for raw in self.source.shards(self.sizes) if new(raw))
        with (
            contextlib.closing(Ahead(self.preparation, self.settings.num_workers)) as ahead,
            bar,
            contextlib.closing(ahead.prepared(source)) as shards,
        ):
            done, read, warned = 0, 0, None
            while True:
                start = time.perf_counter()
                found = next(shards, None)
                times.waiting += time.perf_counter() - start
                if found is None:
                    break
                raw, shard = found
                times.starting = times.starting or time.perf_counter() - begin
                start = time.perf_counter()
                read += len(raw.rows)
                if total is None and raw.progress:
                    bar.total = round((report.resumed + read) / raw.progress)
                said = self.engine.run(shard.tokens, on_rows=bar.update)
                report.cascade.add(len(shard.tokens.lengths), len(said.went_on), said.seconds, said.fallback_seconds)
                if not warned and not disable_tqdm and (warned := report.cascade.warning()):
                    bar.write(f"fastmux predict: {warned}", file=sys.stderr)
                answers = self.answers.of(said.logits, shard.tokens)
                times.model += time.perf_counter() - start
                times.preparing += shard.seconds
                yield raw, shard, self._values(raw, shard, answers), len(said.went_on)
                done += len(raw.rows)
                # Also those that were rejected, or labelled by an earlier process.
                bar.update(report.resumed + done - bar.n)
        times.total, times.processor = time.perf_counter() - begin, processor_seconds() - processor


def _counts(raw: RawShard, shard: PreparedShard, fallback: int) -> dict[str, int]:
    rows, rejected = len(raw.rows), len(shard.problems)
    return {
        "rows": rows,
        "labelled": rows - rejected,
        "rejected": rejected,
        "cut": shard.cut,
        "fallback": fallback,
    }


def _rejects(raw: RawShard, shard: PreparedShard) -> list[Reject]:
    return [
        Reject(raw.numbers[place], reason, whole_row(raw.rows, place))
        for place, reason in sorted(shard.problems.items())
    ]
