"""Rows of a typed table: Parquet, a data set or an Arrow table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
import pyarrow.parquet

from fastmux.tables.shard import SHARD_BYTES, RawShard, Sizes

if TYPE_CHECKING:
    import datasets

_TABLE_ROWS = 1024
_VIEWS = {
    pyarrow.string_view(): pyarrow.large_string(),
    pyarrow.binary_view(): pyarrow.large_binary(),
}


class TableSource:
    """Rows of a typed table, which stay Arrow.

    Attributes:
        schema: The schema, with its metadata.
        columns: The names of the columns; two may be equal.
        total: The number of rows.
    """

    kind, unit, header = "table", "row", b""

    def __init__(
        self, name: str, schema: pyarrow.Schema, total: int, batches: Callable[[int], Iterator[pyarrow.Table]]
    ):
        self.name, self.schema, self.total, self._batches = name, schema, total, batches
        self.columns = list(schema.names)
        if not total:
            raise ValueError(f"{name} has no rows")

    @classmethod
    def of_parquet(cls, path: Path) -> TableSource:
        """The rows of a Parquet file."""
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
        """The rows of a data set of `datasets`."""
        arrow = dataset.with_format("arrow")
        return cls(name, dataset.features.arrow_schema, len(dataset), lambda size: arrow.iter(batch_size=size))

    @classmethod
    def of_table(cls, table: pyarrow.Table, name: str) -> TableSource:
        """The rows of a table in memory."""
        starts = lambda size: range(0, len(table), size)  # noqa: E731
        return cls(name, table.schema, len(table), lambda size: (table.slice(at, size) for at in starts(size)))

    def shards(self, sizes: Sizes) -> Iterator[RawShard]:
        """Yield all rows, in shards of these sizes."""
        kept: list[pyarrow.Table] = []
        index = read = count = size = 0
        for table in self._batches(min(sizes(0), _TABLE_ROWS)):
            while len(table):
                rows = sizes(index)
                part = compact(table.slice(0, rows - count))
                table = table.slice(len(part))
                kept.append(part)
                count += len(part)
                size += sum(map(pyarrow.ipc.get_record_batch_size, part.to_batches()))
                if count == rows or size >= SHARD_BYTES:
                    yield self._shard(index, kept, read)
                    index, read = index + 1, read + count
                    kept, count, size = [], 0, 0
        if kept:
            yield self._shard(index, kept, read)

    def _shard(self, index: int, tables: list[pyarrow.Table], read: int) -> RawShard:
        table = pyarrow.concat_tables(tables)
        end = read + len(table)
        return RawShard(index, table, range(read + 1, end + 1), end / self.total)


def compact(table: pyarrow.Table) -> pyarrow.Table:
    """A slice of a table whose text views do not keep the texts of other rows."""
    for place, field in enumerate(table.schema):
        for view, whole in _VIEWS.items():
            if field.type == view:
                table = table.set_column(place, field, table.column(place).cast(whole).cast(view))
    return table
