"""A shard: consecutive rows, as they were read."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow

#: A line, or a row of CSV, with more bytes is rejected. A shard ends early at this size, to limit memory.
MAX_ROW_BYTES = SHARD_BYTES = 16 * 2**20


#: Gives the number of rows of shard 0, 1, ...
Sizes = Callable[[int], int]


@dataclass(frozen=True)
class RawShard:
    """Consecutive rows of an input.

    Attributes:
        index: The number of the shard, from 0.
        rows: The bytes of each row without its line end; or a table.
        numbers: For each row the number of the line that it begins at, or of the row, from 1.
        progress: The part of the input, from 0 to 1, that has been read at the shard's end; None if unknown.
    """

    index: int
    rows: Sequence[bytes] | pyarrow.Table
    numbers: Sequence[int]
    progress: float | None

    @cached_property
    def digest(self) -> str:
        """A digest of all bytes, computed when it is first needed."""
        if isinstance(self.rows, pyarrow.Table):
            return _digest_of(serialised(self.rows))
        return _digest_of(b"\n".join(self.rows))

    def select(self, columns: Sequence[int]) -> RawShard:
        """The same rows with only these columns of the table."""
        return replace(self, rows=self.table.select(list(columns)))

    @property
    def table(self) -> pyarrow.Table:
        """The rows of a source that is a table."""
        return self.rows


def serialised(table: pyarrow.Table) -> pyarrow.Buffer:
    """Serialise the rows of a table, without other rows of the buffers that it is a slice of."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata())
    return sink.getvalue()


def table_of(serialised: pyarrow.Buffer) -> pyarrow.Table:
    """The table that `serialised` serialised."""
    with pyarrow.ipc.open_stream(serialised) as stream:
        return stream.read_all()


def _digest_of(content: bytes | pyarrow.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def allow_long_fields() -> None:
    """Allow Python's CSV reader fields as long as rows may be; by default it stops at 128 KiB."""
    if csv.field_size_limit() < MAX_ROW_BYTES:
        csv.field_size_limit(MAX_ROW_BYTES)
