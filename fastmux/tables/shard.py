"""A shard: some rows in succession, as they were read."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow

#: A line, or a row of CSV, of more bytes is no row. A shard ends early at this size, so that memory is bounded.
MAX_ROW_BYTES = SHARD_BYTES = 16 * 2**20


#: The rows of shard number 0, 1, ...
Sizes = Callable[[int], int]


@dataclass(frozen=True)
class RawShard:
    """Some rows in succession.

    Attributes:
        index: number of the shard, from 0.
        rows: the bytes of every row, without the end of its line; or a table.
        numbers: of the line that each row begins at, or of the row, from 1.
        progress: of the input that has been read by its end, from 0 to 1; None where that is not known.
    """

    index: int
    rows: Sequence[bytes] | pyarrow.Table
    numbers: Sequence[int]
    progress: float | None

    @cached_property
    def digest(self) -> str:
        """Of all bytes; made when it is first asked for."""
        if isinstance(self.rows, pyarrow.Table):
            return _digest_of(serialised(self.rows))
        return _digest_of(b"\n".join(self.rows))

    def select(self, columns: Sequence[int]) -> RawShard:
        """The same rows with some columns of the table alone."""
        return replace(self, rows=self.table.select(list(columns)))

    @property
    def table(self) -> pyarrow.Table:
        """The rows of a source that has types."""
        return self.rows


def serialised(table: pyarrow.Table) -> pyarrow.Buffer:
    """The rows of a table, and no others of the buffers that it may be a slice of."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata())
    return sink.getvalue()


def table_of(serialised: pyarrow.Buffer) -> pyarrow.Table:
    """What `serialised` made bytes of."""
    with pyarrow.ipc.open_stream(serialised) as stream:
        return stream.read_all()


def _digest_of(content: bytes | pyarrow.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def allow_long_fields() -> None:
    """Have Python's CSV reader, which stops at 128 KiB, take fields as long as rows may be."""
    if csv.field_size_limit() < MAX_ROW_BYTES:
        csv.field_size_limit(MAX_ROW_BYTES)
