"""A run of `fastmux.predict`: first all decisions, then one shard after the other."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
from tqdm.auto import tqdm

from fastmux.labelling.columns import choose_column
from fastmux.labelling.fastest import TIMED_ROWS, made_rows
from fastmux.labelling.labelling_report import LabellingReport, Reject, processor_seconds
from fastmux.labelling.labels import Answers
from fastmux.labelling.loading import Asked, Model, load, load_behind
from fastmux.labelling.placement import Placement
from fastmux.labelling.preparing import Preparation, PreparedShard, executor, prepared
from fastmux.labelling.settings import LabellingSettings
from fastmux.labelling.shard_folder import ShardFolder
from fastmux.labelling.shard_sizes import first_tokens, full_shard, growing
from fastmux.labelling.sharing import Share
from fastmux.labelling.threshold import Calibration
from fastmux.passes.engine import Engine
from fastmux.tables.capacity import settled_schema
from fastmux.tables.opening import Source
from fastmux.tables.parsing import whole_row
from fastmux.tables.shard import RawShard, Sizes
from fastmux.tables.writers import WRITERS, Heads, Parquet, Writer, with_columns

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

#: Settings that do not change the output: they say where rows come from or how fast they are labelled.
_NOT_IN_FINGERPRINT = {"num_workers", "input_format", "dataset_name", "split", "device", "precision"}
#: The name of the column that says why a row has no label.
_REASON = "error"


@dataclass
class Job:
    """Everything that is decided before the first row is labelled.

    Attributes:
        types: The types of the new columns, by name.
    """

    settings: LabellingSettings
    source: Source
    writer: Writer
    engine: Engine
    answers: Answers
    types: dict[str, pyarrow.DataType]
    preparation: Preparation
    sizes: Sizes
    fingerprint: dict

    @classmethod
    def of(
        cls,
        model: Model,
        tokenizer: PreTrainedTokenizerBase | None,
        fallback: Model | None,
        calibration: Calibration | None,
        source: Source,
        output: Path | None,
        settings: LabellingSettings,
        placement: Placement,
    ) -> Job:
        """Load the models, and settle what is to be done with the rows.

        Args:
            calibration: What the model's folder says of the cascade, if the settings say nothing.
        """
        if calibration is not None:
            calibration.check_copies(settings.copies)
            settings = replace(settings, min_confidence=calibration.min_confidence)
        loaded = load(model, tokenizer, placement)
        classifier = loaded.classifier
        column = choose_column(
            source, settings.column, settings.pair_column, settings.is_split_into_words, classifier.per_token
        )
        words = column.words
        length = classifier.max_length(settings.max_length)
        behind = None
        if fallback is not None:
            behind = load_behind(fallback, tokenizer, classifier, length, Asked.of(settings))
            if calibration is not None:
                calibration.check(behind.classifier)
        answers = classifier.answers(words, settings.all_scores, settings.prefix)
        answers.check()
        types = answers.columns()
        if settings.rejected == "reason":
            types[settings.prefix + _REASON] = pyarrow.string()
        ending = None if output is None else output.suffix
        schema = settled_schema(source, ending, tuple(types))
        kind = Parquet if ending is None else WRITERS[ending]
        writer = kind(source.kind, schema, tuple(types), source.header)
        row_tokenizer = classifier.row_tokenizer(length, settings.truncation, words, settings.pair_column is not None)
        preparation = Preparation(
            source.kind, source.columns, column.names, column.places, column.split, row_tokenizer, writer
        )
        if loaded.undecided or (behind is not None and behind.undecided):
            row_tokenizer.start()
            tokens = first_tokens(source, preparation, TIMED_ROWS)
            own = len(tokens.lengths) > 0
            if not own:
                tokens = made_rows(classifier.vocabulary(), length)
            loaded = loaded.settled(tokens, own, settings.copies)
            behind = None if behind is None else behind.settled(tokens, own)
        classifier, placement = loaded.classifier, loaded.placement
        fingerprint: dict[str, Any] = {**classifier.fingerprint()}
        second = None
        if behind is not None:
            second = behind.classifier.engine(behind.placement)
            fingerprint["fallback"] = behind.classifier.fingerprint()["model"]
        engine = classifier.engine(placement, settings.copies, second, settings.min_confidence)
        full = settings.rows_per_shard
        if full is None:
            row_tokenizer.start()
            full = full_shard(engine, source, preparation, placement.on_cpu)
        options = {name: value for name, value in vars(settings).items() if name not in _NOT_IN_FINGERPRINT}
        options |= {"column": column.names[0], "max_length": length, "batch_tokens": placement.batch_tokens}
        options |= {"rows_per_shard": full, "dtype": placement.dtype, "runtime": placement.runtime}
        options |= {"device": placement.device.partition(":")[0]}
        fingerprint |= options
        sizes = growing(full, engine.layout.rows) if settings.rows_per_shard is None else lambda index: full
        return cls(settings, source, writer, engine, answers, types, preparation, sizes, fingerprint)

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

    def _values(self, raw: RawShard, shard: PreparedShard, answers: dict[str, list]) -> dict[str, list]:
        """The new columns of the rows that come out. A rejected row has null there, and perhaps the reason."""
        rows, kept = len(raw.rows), self.settings.rejected
        if shard.problems and kept != "drop":
            for name, values in answers.items():
                left = iter(values)
                answers[name] = [None if place in shard.problems else next(left) for place in range(rows)]
        if kept == "reason":
            answers[self.settings.prefix + _REASON] = [shard.problems.get(place) for place in range(rows)]
        return answers

    def _labelled(
        self, report: LabellingReport, share: Share, disable_tqdm: bool, new: Callable[[RawShard], bool]
    ) -> Iterator[tuple[RawShard, PreparedShard, dict, int]]:
        """Yield each new shard, what was prepared of it, its new columns, and how many rows the fallback answered."""
        times, workers = report.times, self.settings.num_workers
        begin, processor = time.perf_counter(), processor_seconds()
        total = None if self.source.total is None else self.source.total // share.world
        bar = tqdm(total=total, unit="row", smoothing=0, disable=disable_tqdm or share.rank > 0)
        source = (raw for raw in self.source.shards(self.sizes) if new(raw))
        with (
            executor(self.preparation, workers) as pool,
            bar,
            contextlib.closing(prepared(source, self.preparation, pool, workers)) as shards,
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
