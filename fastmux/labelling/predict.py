"""`predict`: rows in, the same rows with labels out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import pyarrow
import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.labelling.classifier import Classifier, check_same_labels
from fastmux.labelling.columns import choose_column
from fastmux.labelling.formats import FORMATS, Format, JsonLines, Parquet, schema_of, text_schema
from fastmux.labelling.labels import Answers
from fastmux.labelling.placement import Placement, checked_device
from fastmux.labelling.preparing import Preparation, PreparedShard, executor, prepared
from fastmux.labelling.report import Report, processor_seconds
from fastmux.labelling.rows import Reject, Row, parse_rows
from fastmux.labelling.settings import LabellingSettings, check_cascade, settings_of
from fastmux.labelling.shard import RawShard
from fastmux.labelling.sharing import Share
from fastmux.labelling.sources import Source, open_source
from fastmux.labelling.work import Work, check_output
from fastmux.passes.engine import Engine

#: On a CPU, where a multiplexed model gets as many more as it labels in the same time, up to a limit; on anything else.
_ROWS_PER_SHARD, _MOST_ROWS_PER_SHARD, _ROWS_PER_SHARD_ELSEWHERE = 8192, 32768, 65536
#: Rows from the start of an input by which columns are known where no header or schema says them.
_SAMPLE = 100
#: Settings that say where rows come from or how fast they go, and nothing of what comes out.
_NOT_IN_FINGERPRINT = {"num_workers", "input_format", "dataset_name", "split", "device"}


@dataclass
class Predictions:
    """What `predict` returns.

    Attributes:
        dataset: the labelled rows; None where they were written to a file.
        rejects: the rows without a label, with line and reason; of a run that writes a file they are in its
            ``report.rejects``.
        report: how many rows, and where the time went.
    """

    dataset: datasets.Dataset | None
    rejects: list[Reject] = field(default_factory=list)
    report: Report = field(default_factory=Report)


def predict(
    model: str | os.PathLike | PreTrainedModel,
    dataset: str | os.PathLike | datasets.Dataset | Sequence,
    output: str | os.PathLike | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    fallback: str | os.PathLike | PreTrainedModel | None = None,
    settings: LabellingSettings | None = None,
    disable_tqdm: bool = False,
    process_group: dist.ProcessGroup | None = None,
    **options,
) -> Predictions:
    """Label rows of text: the same rows come out, in their order, with a label and its score.

    Rows are tokenised ahead of the model and share a pass, and a group of a multiplexed model, with rows of like
    length. A row that cannot be labelled is put aside, with its line and the reason, and holds up no other. With an
    ``output``, a run that was interrupted goes on where it was when it is called again, and ends in the same bytes.

    Args:
        model: a classifier of sequences or tokens: a T-MUX, a joined model or a plain encoder; or its name or folder.
        dataset: a file (JSON lines, CSV, TSV, Parquet, text; .gz), the name of a data set of the Hugging Face hub, a
            `datasets.Dataset`, or a list of texts or of rows.
        output: a file, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``. If None, all rows are returned, and held in
            memory.
        tokenizer: of the model; comes with ``model`` if that is a name or a folder.
        fallback: the model that rows go through of which this one is less sure than ``min_confidence``.
        settings: how; or, in place of it, ``options``: the fields of `LabellingSettings`.
        process_group: of processes that share the work, on one machine or on several with a common file system: each
            of them calls this alike, and labels every so manieth shard; the first joins them.

    Returns:
        The rows, or where they were written; the rejected rows; times and counts.

    Raises:
        ValueError: for an option out of range, a model that is no classifier or cannot be loaded, an input that is not
            there or lacks the column (the message lists those there are), an output that exists or was begun with
            another model, other options or another input. Before anything is written.
        OSError: the output cannot be written; what is labelled so far is kept.

    Example:
        >>> import fastmux
        >>> from transformers import BertConfig, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
        >>> texts = ["fine film", "", "film"]
        >>> found = fastmux.predict(model, texts, tokenizer=tokenizer, num_workers=0, disable_tqdm=True)
        >>> found.dataset.column_names, len(found.dataset), found.rejects[0].reason
        (['text', 'label', 'score'], 2, "column 'text' is empty")
    """
    settings = settings_of(LabellingSettings, settings, options, "predict")
    check_cascade(fallback, settings.min_confidence)
    checked_device(settings.device)
    if output is None and process_group is not None:
        raise ValueError("process_group is given without an output, in which its processes put their shards together")
    target, share = None if output is None else Path(output), Share.of(process_group)
    if target is not None:
        if target.suffix not in FORMATS:
            raise ValueError(f"output is {str(target)!r}, expected a name that ends in {', '.join(FORMATS)}")
        share.once(lambda: check_output(target))
    source = open_source(dataset, settings.input_format, settings.dataset_name, settings.split)
    job = _Job.of(model, tokenizer, fallback, source, target, settings)
    report = Report()
    if target is None:
        return job.run_in_memory(report, disable_tqdm)
    with job.work(target).open(share) as work:
        job.run(work, report, share, disable_tqdm)
    return Predictions(None, [], report)


@dataclass
class _Job:
    """All that was decided before the first row."""

    settings: LabellingSettings
    source: Source
    form: Format
    engine: Engine
    answers: Answers
    preparation: Preparation
    rows_per_shard: int
    fingerprint: dict

    @classmethod
    def of(cls, model, tokenizer, fallback, source: Source, output: Path | None, settings: LabellingSettings) -> _Job:
        placement = Placement.of(settings.device, settings.dtype, settings.batch_tokens, settings.torch_compile)
        sample = _sample(source)
        classifier = Classifier.of(model, tokenizer)
        column = choose_column(source, [row.values for row in sample], settings, classifier.per_token)
        words = column.words
        length = classifier.max_length(settings.max_length)
        fingerprint = classifier.fingerprint()
        second = None
        if fallback is not None:
            behind = Classifier.of(fallback, tokenizer, "fallback")
            check_same_labels(classifier, behind)
            behind.max_length(length, "fallback")
            fingerprint["fallback"] = behind.fingerprint()["model"]
            second = behind.engine(placement)
        answers = classifier.answers(words, settings.all_scores, settings.prefix)
        new = tuple(answers.columns())
        taken = sorted(set(new) & set(source.columns or sample[0].values))
        if taken:
            raise ValueError(
                f"{source.name} has a column {', '.join(map(repr, taken))} already; prefix gives the new columns "
                "other names"
            )
        form = _form(output, source, sample)
        encoder = classifier.encoder(length, settings.truncation, words, settings.pair_column is not None)
        preparation = Preparation(
            source.kind, source.columns, column.name, settings.pair_column, new, column.split, encoder, form
        )
        engine = classifier.engine(placement, settings.copies, second, settings.min_confidence)
        rows_per_shard = settings.rows_per_shard or _rows_per_shard(placement, engine)
        options = {name: value for name, value in vars(settings).items() if name not in _NOT_IN_FINGERPRINT}
        options |= {"column": column.name, "max_length": length, "batch_tokens": placement.batch_tokens}
        options |= {"rows_per_shard": rows_per_shard, "dtype": str(placement.dtype).removeprefix("torch.")}
        options |= {"device": placement.device.type}
        return cls(settings, source, form, engine, answers, preparation, rows_per_shard, fingerprint | options)

    def work(self, output: Path) -> Work:
        return Work(output, self.form, self.fingerprint, self.source.unit)

    def run(self, work: Work, report: Report, share: Share, disable_tqdm: bool) -> None:
        """Label what is not labelled yet, and join all."""
        digests: list[str] = []

        def new(raw: RawShard) -> bool:
            digests.append(raw.digest)
            if not share.has(raw.index):
                return False
            record = work.record(raw.index, raw.digest)
            if record is not None:
                report.add(record)
                report.resumed += record["rows"]
            return record is None

        types = self.answers.columns()
        for shard, values, fallback in self._labelled(report, share, disable_tqdm, new):
            start = time.perf_counter()
            record = {"digest": shard.digest, **_counts(shard, fallback)}
            write = partial(self.form.write, heads=shard.heads, types=types, answers=values)
            work.commit(shard.index, write, shard.rejects, record)
            report.times.writing += time.perf_counter() - start
            report.add(record)
        self._check_rows(len(digests))
        start = time.perf_counter()
        everywhere = share.gathered((digests, report))
        if any(read != digests for read, _ in everywhere):
            raise ValueError(f"the processes that label {self.source.name} have read different rows")
        for rank, (_, other) in enumerate(everywhere):
            if rank != share.rank:
                report.add(vars(other))
                report.resumed += other.resumed
        share.once(lambda: work.finish(len(digests)))
        report.output = str(work.output)
        report.rejects = str(work.rejects) if report.rejected else None
        report.times.writing += time.perf_counter() - start
        report.times.total += time.perf_counter() - start

    def run_in_memory(self, report: Report, disable_tqdm: bool) -> Predictions:
        """Label everything, and return it."""
        types, tables, rejects = self.answers.columns(), [], []
        for shard, values, fallback in self._labelled(report, Share(), disable_tqdm, lambda raw: True):
            report.add(_counts(shard, fallback))
            own = pyarrow.Table.from_pylist(shard.heads, self.form.schema)
            for name, kind in types.items():
                own = own.append_column(name, pyarrow.array(values[name], kind))
            tables.append(own)
            rejects.extend(shard.rejects)
        self._check_rows(report.rows)
        return Predictions(datasets.Dataset(pyarrow.concat_tables(tables)), rejects, report)

    def _check_rows(self, found: int) -> None:
        if not found:
            raise ValueError(f"{self.source.name} has no rows")

    def _labelled(
        self, report: Report, share: Share, disable_tqdm: bool, new: Callable[[RawShard], bool]
    ) -> Iterator[tuple[PreparedShard, dict, int]]:
        """Every new shard with its answers, and how many of its rows the fallback took."""
        times, workers = report.times, self.settings.num_workers
        begin, processor = time.perf_counter(), processor_seconds()
        total = None if self.source.total is None else self.source.total // share.world
        bar = tqdm(total=total, unit="row", smoothing=0, disable=disable_tqdm or share.rank > 0)
        raw = (shard for shard in self.source.shards(self.rows_per_shard) if new(shard))
        with (
            executor(self.preparation, workers) as pool,
            bar,
            contextlib.closing(prepared(raw, self.preparation, pool, workers)) as shards,
        ):
            done = 0
            while True:
                start = time.perf_counter()
                shard = next(shards, None)
                times.waiting += time.perf_counter() - start
                if shard is None:
                    break
                times.starting = times.starting or time.perf_counter() - begin
                start = time.perf_counter()
                found = self.engine.run(shard.tokens)
                values = self.answers.of(torch.from_numpy(found.logits), shard.tokens)
                times.model += time.perf_counter() - start
                times.preparing += shard.seconds
                yield shard, values, len(found.went_on)
                done += shard.rows
                if total is None and shard.share:
                    bar.total = round((report.resumed + done) / shard.share)
                bar.update(report.resumed + done - bar.n)
        times.total, times.processor = time.perf_counter() - begin, processor_seconds() - processor


def _rows_per_shard(placement: Placement, engine: Engine) -> int:
    if placement.device.type != "cpu":
        return _ROWS_PER_SHARD_ELSEWHERE
    # Of few rows many groups would be padded to the length of their longest.
    return min(_MOST_ROWS_PER_SHARD, _ROWS_PER_SHARD * engine.layout.rows)


def _counts(shard: PreparedShard, fallback: int) -> dict[str, int]:
    labelled = len(shard.heads)
    return {
        "rows": shard.rows,
        "labelled": labelled,
        "rejected": shard.rows - labelled,
        "cut": shard.cut,
        "fallback": fallback,
    }


def _sample(source: Source) -> list[Row]:
    """The first rows that parse."""
    first = next(source.shards(_SAMPLE), None)
    if first is None:
        raise ValueError(f"{source.name} has no rows")
    rows = list(parse_rows(first, source.kind, source.columns))
    good = [row for row in rows if isinstance(row, Row)]
    bad = [row for row in rows if isinstance(row, Reject)]
    if not good and source.columns is None:
        raise ValueError(
            f"{source.name}: none of the first {len(rows)} lines is a row; line {bad[0].number} is {bad[0].reason}"
        )
    return good


def _form(output: Path | None, source: Source, sample: list[Row]) -> Format:
    """How rows are written; without an output, as a table in memory."""
    kind = Parquet if output is None else FORMATS[output.suffix]
    columns = source.columns
    if columns is None and kind is not JsonLines:
        columns = list(sample[0].values) if sample else []
    if kind is not Parquet:
        return kind(columns)
    if source.schema is not None:
        return Parquet(columns, source.schema)
    if source.columns is not None:
        return Parquet(columns, text_schema(columns))
    return Parquet(columns, schema_of([row.values for row in sample]))
