"""Where rows come from: files of lines, CSV, Parquet and data sets, in shards of a fixed number of rows.

A source is read once, from its start to its end, and holds one shard at a time. Rows are not looked into here: a line
that is no row at all is a row whose parsing fails (`fastmux.labelling.rows`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet

from fastmux.labelling.settings import INPUT_FORMATS
from fastmux.labelling.shard import MAX_ROW_BYTES, SHARD_BYTES, RawShard, allow_long_fields
from fastmux.lines import RawLines, decode, without_end

_TABLE_ROWS = 1024


class LineSource:
    """A text file with a row a line: "jsonl", "tsv" or "text"; or "csv", where quotes may hold an end of line.

    Attributes:
        columns: the names in the first line of TSV and CSV; ["text"] for text; None for JSON, where rows have names.
        unit: what `RawShard.numbers` count.

    Raises:
        ValueError: the file cannot be read, or its first line names no columns.
    """

    unit = "line"
    total: int | None = None
    schema: pyarrow.Schema | None = None

    def __init__(self, path: Path, kind: str):
        self.path, self.kind, self.name = path, kind, str(path)
        self.columns = ["text"] if kind == "text" else None if kind == "jsonl" else self._header()

    def _header(self) -> list[str]:
        first = next(iter(self._rows(header=True)), None)
        if first is None:
            raise ValueError(f"{self.path} is empty, expected a first line with the names of its columns")
        try:
            line = without_end(decode(first[1]))
        except ValueError as error:
            raise ValueError(f"{self.path} must be UTF-8, but line 1 has {error}") from error
        names = line.split("\t") if self.kind == "tsv" else next(csv.reader([line]), [])
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"{self.path}: the first line must name every column once, got {names}")
        return names

    def _rows(self, header: bool = False) -> Iterator[tuple[int, bytes]]:
        self._lines = RawLines(self.path, MAX_ROW_BYTES)
        numbered = enumerate(self._lines, start=1)
        if self.kind in ("csv", "tsv") and not header:
            next(numbered, None)
        if self.kind == "csv" and not header:
            return _csv_rows(numbered, len(self.columns))
        return numbered

    def shards(self, rows: int) -> Iterator[RawShard]:
        """All rows, so many a shard."""
        size = max(1, self.path.stat().st_size)
        kept: list[bytes] = []
        numbers: list[int] = []
        held, index = 0, 0
        for number, row in self._rows():
            kept.append(row)
            numbers.append(number)
            held += len(row)
            if len(kept) == rows or held >= SHARD_BYTES:
                yield RawShard(index, kept, numbers, _digest(kept), min(1.0, self._lines.position / size))
                kept, numbers, held, index = [], [], 0, index + 1
        if kept:
            yield RawShard(index, kept, numbers, _digest(kept), 1.0)


def _csv_rows(lines: Iterable[tuple[int, bytes]], columns: int) -> Iterator[tuple[int, bytes]]:
    """Lines of CSV joined where quotes hold an end of line.

    A quote that is never closed would make one row of all that follows: where the lines that it spans are no row of so
    many columns, its own line is one by itself, which will not parse, and reading goes on at the next.
    """
    allow_long_fields()
    source = iter(lines)
    waiting: deque[tuple[int, bytes]] = deque()
    while (first := waiting.popleft() if waiting else next(source, None)) is not None:
        number, row = first
        if row.count(b'"') % 2 == 0:  # no quote is left open, or the row is malformed anyway
            yield number, row
            continue
        spanned = [first]

        def pull(spanned=spanned) -> Iterator[str]:
            yield spanned[0][1].decode("utf-8", "replace")
            size = len(spanned[0][1])
            while size <= MAX_ROW_BYTES and (line := waiting.popleft() if waiting else next(source, None)):
                spanned.append(line)
                size += len(line[1])
                yield line[1].decode("utf-8", "replace")

        fields = None
        with contextlib.suppress(csv.Error):
            fields = next(csv.reader(pull(), strict=True), None)
        if fields is not None and len(fields) == columns:
            yield number, b"".join(line for _, line in spanned)
        else:
            yield first
            waiting.extendleft(reversed(spanned[1:]))


class TableSource:
    """A Parquet file, or a `datasets.Dataset`."""

    kind, unit = "table", "row"

    def __init__(self, name: str, schema: pyarrow.Schema, total: int, batches):
        self.name, self.total, self._batches = name, total, batches
        self.schema = schema.remove_metadata()
        self.columns = list(schema.names)

    @classmethod
    def of_parquet(cls, path: Path) -> TableSource:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                schema, total = file.schema_arrow, file.metadata.num_rows
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error

        def batches(size: int) -> Iterator[pyarrow.Table]:
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    for batch in file.iter_batches(size):
                        yield pyarrow.Table.from_batches([batch])
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{path} cannot be read as Parquet: {error}") from error

        return cls(str(path), schema, total, batches)

    @classmethod
    def of_dataset(cls, dataset: datasets.Dataset, name: str = "the data set") -> TableSource:
        arrow = dataset.with_format("arrow")
        return cls(name, dataset.features.arrow_schema, len(dataset), lambda size: arrow.iter(batch_size=size))

    def shards(self, rows: int) -> Iterator[RawShard]:
        """All rows, so many a shard."""
        kept: list[pyarrow.Table] = []
        index, read, held, size = 0, 0, 0, 0
        for table in self._batches(min(rows, _TABLE_ROWS)):
            while len(table):
                part = table.slice(0, rows - held)
                table = table.slice(len(part))
                kept.append(part)
                held, size = held + len(part), size + part.nbytes
                if held == rows or size >= SHARD_BYTES:
                    yield self._shard(index, kept, read)
                    index, read = index + 1, read + held
                    kept, held, size = [], 0, 0
        if kept:
            yield self._shard(index, kept, read)

    def _shard(self, index: int, tables: list[pyarrow.Table], read: int) -> RawShard:
        table = pyarrow.concat_tables(tables).combine_chunks().replace_schema_metadata()
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        end = read + len(table)
        return RawShard(index, table, range(read + 1, end + 1), _digest([sink.getvalue()]), end / self.total)


Source = LineSource | TableSource


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def open_source(
    given: str | os.PathLike | datasets.Dataset | Sequence,
    input_format: str | None = None,
    dataset_name: str | None = None,
    split: str | None = None,
) -> Source:
    """The source that ``given`` names or is: a file, a folder that `datasets` saved, the name of a data set of the
    Hugging Face hub; a data set; or a list of texts or of rows.

    Raises:
        ValueError: there is no such thing, or it has another format or no such split; the message says what there is.
    """
    if isinstance(given, datasets.Dataset):
        return TableSource.of_dataset(given)
    if isinstance(given, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise ValueError(f"the input is a data set of several splits, {list(given)}: give one of them")
    if not isinstance(given, (str, os.PathLike)):
        return TableSource.of_dataset(_from_list(given), "the list")
    path = Path(given)
    unpacked = Path(path.name.removesuffix(".gz"))
    known = ", ".join(INPUT_FORMATS)
    if path.is_file():
        kind = input_format or INPUT_FORMATS.get(unpacked.suffix)
        if kind is None or (kind == "parquet" and path.suffix == ".gz"):
            raise ValueError(
                f"{path}: the name of an input must end in one of {known} (all but Parquet perhaps with .gz behind "
                "it), or input_format say what it is"
            )
        return TableSource.of_parquet(path) if kind == "parquet" else LineSource(path, kind)
    if not path.exists() and (unpacked.suffix in INPUT_FORMATS or path.is_absolute() or str(given).startswith(".")):
        raise ValueError(f"{path} is not there")
    return TableSource.of_dataset(_from_hub(given, dataset_name, split), str(given))


def _from_list(rows: Sequence) -> datasets.Dataset:
    try:
        rows = list(rows)
        if all(isinstance(row, str) for row in rows):
            return datasets.Dataset.from_dict({"text": rows})
        return datasets.Dataset.from_list(rows)
    except (TypeError, AttributeError, pyarrow.ArrowException) as error:
        raise ValueError(f"the input is a {type(rows).__name__}, expected texts, or rows by column: {error}") from error


def _from_hub(name: str | os.PathLike, dataset_name: str | None, split: str | None) -> datasets.Dataset:
    try:
        if Path(name).is_dir() and any(Path(name).glob("dataset*.json")):  # written by save_to_disk
            found = datasets.load_from_disk(str(name))
            found = found[split] if split is not None and isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(str(name), dataset_name, split=split)
    except KeyError as error:
        raise ValueError(f"{str(name)!r} has no split {error}") from error
    except Exception as error:  # of a hub, a network, a script, a file of any format
        raise ValueError(
            f"{str(name)!r} is no file, and no data set that can be loaded: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) > 1:
            raise ValueError(f"{str(name)!r} has the splits {', '.join(found)}; say which with split")
        found = next(iter(found.values()))
    return found
