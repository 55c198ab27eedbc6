"""All that a run settles before its first row, whatever it makes of rows: columns, tokenizer, writer, shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from fastmux.labelling.columns import Column
from fastmux.labelling.fastest import TIMED_ROWS, made_rows
from fastmux.labelling.given_tokens import TOKEN_TYPES
from fastmux.labelling.job import REASON, Answering, Job
from fastmux.labelling.labelling_report import LabellingReport, Reject
from fastmux.labelling.loading import Loaded
from fastmux.labelling.placement import Placement
from fastmux.labelling.preparing import Preparation
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.labelling.settings import RowSettings
from fastmux.labelling.shard_folder import ShardFolder, check_output
from fastmux.labelling.shard_sizes import first_tokens, full_shard, growing
from fastmux.labelling.sharing import Share
from fastmux.labelling.token_cache import TokenCache
from fastmux.passes.engine import Engine
from fastmux.tables.capacity import settled_schema
from fastmux.tables.opening import Source, open_source
from fastmux.tables.writers import WRITERS, Parquet

if TYPE_CHECKING:
    import datasets
    import torch.distributed as dist

#: Settings that do not change the output: they say where rows come from or how fast they are answered.
_NOT_IN_FINGERPRINT = {"num_workers", "cache_tokens", "input_format", "dataset_name", "split", "device", "precision"}


class Deciding:
    """The rows of a run and what is known of their output, before the model's runtime is.

    Args:
        types: The types of the new columns, by name.

    Raises:
        ValueError: The output cannot hold the input's columns, or token types are missing.
    """

    def __init__(
        self,
        settings: RowSettings,
        source: Source,
        output: Path | None,
        column: Column,
        types: dict[str, pyarrow.DataType],
        row_tokenizer: RowTokenizer,
    ):
        self.settings, self.source, self.column = settings, source, column
        if column.ids and row_tokenizer.types and len(column.names) == 1:
            raise ValueError(
                f"column {column.names[0]!r} holds token ids, and the model's tokenizer gives token types, but the "
                f"input has no column {TOKEN_TYPES!r}"
            )
        if settings.cache_tokens is not None:
            if not isinstance(row_tokenizer.tokenizer, str):
                raise ValueError("cache_tokens needs a fast tokenizer, in Rust, and the model's is in Python")
            if Path(settings.cache_tokens).exists() and not Path(settings.cache_tokens).is_dir():
                raise ValueError(f"cache_tokens is {str(settings.cache_tokens)!r}, which is a file; expected a folder")
        self.types = types | ({settings.prefix + REASON: pyarrow.string()} if settings.rejected == "reason" else {})
        kind = Parquet if output is None else WRITERS[output.suffix]
        # All tables hold what Parquet holds.
        ending = None if output is None else Parquet.ending if issubclass(kind, Parquet) else kind.ending
        schema = settled_schema(source, ending, tuple(self.types))
        self.writer = kind(source.kind, schema, tuple(self.types), source.header)
        self.row_tokenizer = row_tokenizer
        self.preparation = Preparation(
            source.kind,
            source.columns,
            column.names,
            column.places,
            column.split,
            row_tokenizer,
            self.writer,
            column.ids,
            None if settings.cache_tokens is None else TokenCache(Path(settings.cache_tokens)),
        )

    def settled(self, *undecided: Loaded | None, copies: int = 1) -> list[Any]:
        """The models for the runtimes that are the fastest on the first rows, where that is to be found out."""
        if not any(one is not None and one.undecided for one in undecided):
            return [*undecided]
        self.row_tokenizer.start()
        tokens = first_tokens(self.source, self.preparation, TIMED_ROWS)
        first: Any = undecided[0]
        if not (own := len(tokens.lengths) > 0):
            tokens = made_rows(first.classifier.vocabulary(), self.row_tokenizer.max_length)
        return [
            None if one is None else one.settled(tokens, own, 1 if number else copies)
            for number, one in enumerate(undecided)
        ]

    def job(self, engine: Engine, answers: Answering, placement: Placement, fingerprint: dict[str, Any]) -> Job:
        """The job.

        Args:
            fingerprint: What the output depends on beside the settings.
        """
        settings, full = self.settings, self.settings.rows_per_shard
        if full is None:
            self.row_tokenizer.start()
            full = full_shard(engine, self.source, self.preparation, placement.on_cpu)
        options = {name: value for name, value in vars(settings).items() if name not in _NOT_IN_FINGERPRINT}
        options |= {"column": self.column.names[0], "ids": self.column.ids, "max_length": self.row_tokenizer.max_length}
        options |= {"batch_tokens": placement.batch_tokens, "rows_per_shard": full}
        options |= {"dtype": placement.dtype, "runtime": placement.runtime, "execution": placement.captured}
        options |= {"device": placement.device.partition(":")[0]}
        sizes = growing(full, engine.layout.rows) if settings.rows_per_shard is None else lambda index: full
        return Job(
            settings,
            self.source,
            self.writer,
            engine,
            answers,
            self.types,
            self.preparation,
            sizes,
            fingerprint | options,
        )


def run(
    decide: Callable[[Source, Path | None], Job],
    dataset: Any,
    output: Path | None,
    formats: tuple[str, ...],
    settings: RowSettings,
    placed: Placement,
    report: LabellingReport,
    process_group: dist.ProcessGroup | None,
    disable_tqdm: bool,
) -> tuple[datasets.Dataset | None, list[Reject]]:
    """Open the input, decide, and do the job, or what is left of it.

    Args:
        decide: Settles what is done with the rows of a source.
        formats: The endings that the output may have.
        placed: What runs the model, as it was asked for.
        report: Is filled in.

    Returns:
        The rows and the rejected rows, if there is no output.

    Raises:
        ValueError: As of `fastmux.predict`.
    """
    if output is None and process_group is not None:
        raise ValueError("process_group is given without an output, into which its processes put their shards")
    share = Share.of(process_group)
    if output is not None:
        if output.suffix not in formats:
            raise ValueError(f"output is {str(output)!r}, expected a name that ends in {', '.join(formats)}")
        share.once(lambda: check_output(output))
    source = open_source(dataset, settings.input_format, settings.dataset_name, settings.split)
    decided = partial(decide, source, output)
    if placed.runtime == "auto" and share.world > 1:

        def choose() -> None:
            decided()

        share.once(choose)  # the first process times, the others read what it kept
    job = decided()
    if output is None:
        return job.run_in_memory(report, disable_tqdm)
    with ShardFolder(output, job.writer, job.fingerprint, source.unit).open(share) as folder:
        job.run(folder, report, share, disable_tqdm)
    return None, []
