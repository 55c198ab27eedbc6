"""A shard: some rows in succession, as they were read."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

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
        digest: of all bytes.
        progress: of the input that has been read by its end, from 0 to 1; None where that is not known.
    """

    index: int
    rows: Sequence[bytes] | pyarrow.Table
    numbers: Sequence[int]
    digest: str
    progress: float | None

    def select(self, columns: Sequence[int]) -> RawShard:
        """The same rows with some columns of the table alone."""
        return replace(self, rows=self.table.select(list(columns)))

    @property
    def table(self) -> pyarrow.Table:
        """The rows of a source that has types."""
        return self.rows


def digest_of(parts: Iterable) -> str:
    """Of bytes, end to end."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def allow_long_fields() -> None:
    """Have Python's CSV reader, which stops at 128 KiB, take fields as long as rows may be."""
    if csv.field_size_limit() < MAX_ROW_BYTES:
        csv.field_size_limit(MAX_ROW_BYTES)
