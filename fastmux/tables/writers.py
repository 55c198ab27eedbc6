"""Write rows with new columns to a file: JSON lines, CSV, TSV, Parquet, Arrow or NumPy.

A row is written in two parts. Its head is the input's columns, then the new columns follow. Where input and output have
the same format, the head is what was read: the bytes of the line, or the Arrow slice. Otherwise it is made from the
row's values (`Writer.heads`).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow
import pyarrow.parquet

from fastmux.tables.parsing import column_values

#: Made once, as `json.dumps` with this argument would make one for every row.
_ENCODER = json.JSONEncoder(ensure_ascii=False)
#: The input's columns of some rows: bytes for each row, or one table.
Heads: TypeAlias = "Sequence[bytes] | pyarrow.Table"


class Writer:
    """Writes rows in one format.

    Args:
        kind: The source's kind: "jsonl", "csv", "tsv", "text" or "table".
        schema: The schema of the input's columns; for lines only its names matter.
        new: The names of the columns that are added.
        header: The first line of the source, if it has one.
    """

    ending: str
    #: The kind of source whose rows are written as they were read.
    same: str
    #: What follows the output's name in the name of a second file, if there is one.
    beside: str | None = None

    def __init__(self, kind: str, schema: pyarrow.Schema, new: Sequence[str], header: bytes = b""):
        self.kind, self.schema, self.new, self.header = kind, schema, new, header

    @property
    def keeps(self) -> bool:
        """Whether rows are written as they were read."""
        return self.kind == self.same

    @property
    def exact(self) -> bool:
        """Whether the output can hold integers of any length."""
        return False

    def heads(self, rows: Sequence[dict[str, Any] | None]) -> Heads:
        """The heads of parsed rows; None stands for a line that is not a row."""
        raise NotImplementedError

    def heads_of_table(self, table: pyarrow.Table) -> Heads:
        """The heads of the rows of a table."""
        columns = [column_values(column) for column in table.columns]
        return self.heads([dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)])

    def kept(self, rows: Sequence[bytes] | pyarrow.Table, unread: set[int]) -> Heads:
        """The heads of rows that are written as they were read.

        Args:
            unread: The places of lines that are not rows.
        """
        raise NotImplementedError

    def write(self, path: Path, heads: Heads, types: dict[str, pyarrow.DataType], new: dict[str, list]) -> None:
        """Write a part of the output: the heads of rows, and the types and values of the new columns by name."""
        raise NotImplementedError

    def assemble(self, path: Path, parts: Sequence[Path]) -> None:
        """Write the output from the parts that `write` wrote."""
        concatenate_files(path, parts)

    def assemble_beside(self, path: Path, parts: Sequence[Path]) -> None:
        """Write the second file, if there is one."""
        raise NotImplementedError


def concatenate_files(path: Path, parts: Sequence[Path], begin: bytes = b"") -> None:
    """Write a file that has the content of others, one after the other."""
    with open(path, "wb") as whole:
        whole.write(begin)
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole, 2**20)


class JsonLines(Writer):
    """One JSON object a line."""

    ending = ".jsonl"
    same = "jsonl"

    def heads(self, rows):
        return [b"{" if row is None else _opened(_ENCODER.encode(row).encode()) for row in rows]

    def kept(self, rows, unread):
        heads = [raw.rstrip()[:-1].rstrip() + b", " for raw in rows]
        for place, head in enumerate(heads):
            if len(head) < 5 and head == b"{, ":
                heads[place] = b"{"
        for place in unread:
            heads[place] = b"{"
        return heads

    def write(self, path, heads, types, new):
        parts: list[Iterable[str]] = []
        for number, (name, values) in enumerate(new.items()):
            parts += [itertools.repeat(f"{', ' if number else ''}{_ENCODER.encode(name)}: "), _json_texts(values)]
        tails = "\n".join(map("".join, zip(*parts, strict=False))).encode().split(b"\n")
        with open(path, "wb") as file:
            file.write(
                b"".join(itertools.chain.from_iterable(zip(heads, tails, itertools.repeat(b"}\n"), strict=False)))
            )


def _opened(line: bytes) -> bytes:
    """The start of a JSON object, to which more keys can be added."""
    return b"{" if line == b"{}" else line[:-1] + b", "


def _json_texts(values: list | pyarrow.Array) -> Iterable[str]:
    if isinstance(values, pyarrow.FixedSizeListArray):
        return _json_of_vectors(values)
    values = values.to_pylist() if isinstance(values, pyarrow.Array) else values
    kinds = set(map(type, values))
    if kinds == {float}:
        return map(repr, values)
    if kinds <= {str, type(None)}:
        known = {value: _ENCODER.encode(value) for value in set(values)}
        return map(known.__getitem__, values)
    return map(_ENCODER.encode, values)


def _json_of_vectors(column: pyarrow.FixedSizeListArray) -> Iterator[str]:
    """A list of numbers for each vector, each with as many digits as its type needs."""
    vectors, there = vectors_of(column)
    for vector, known in zip(vectors, there, strict=True):
        yield orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY).decode() if known else "null"


def vectors_of(column: pyarrow.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (rows, D) of a column, and whether there is one (rows); where not, NaN, or 0 of an integer type."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.full((len(column), column.type.list_size), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    vectors[there] = values.reshape(-1, column.type.list_size)
    return vectors, there


class Delimited(Writer):
    """Fields between commas, in quotes where they need them."""

    ending, separator, same = ".csv", ",", "csv"

    @property
    def exact(self):
        return True

    def heads(self, rows):
        names = self.schema.names
        return [self._delimited([row.get(name) for name in names] if row else [None] * len(names)) for row in rows]

    def kept(self, rows, unread):
        empty = self.separator.encode() * (len(self.schema.names) - 1)
        return [empty if place in unread else raw for place, raw in enumerate(rows)]

    def _delimited(self, values: Sequence) -> bytes:
        if len(values) == 1 and values[0] in (None, ""):
            return b""  # more columns follow; on its own the csv module would quote it
        out = io.StringIO()
        # With a line end the csv module quotes fields that have one; it is cut off again.
        csv.writer(out, lineterminator="\r\n").writerow([_field(value) for value in values])
        return out.getvalue()[:-2].encode()

    def write(self, path, heads, types, new):
        columns = []
        for values in new.values():
            kinds = set(map(type, values))
            if kinds <= {str, float, type(None)}:
                known = {value: self._delimited([value]) for value in set(values)} if float not in kinds else {}
                columns.append([known[v] if known else self._delimited([v]) for v in values])
            else:
                columns.append([self._delimited([v]) for v in values])
        separator = self.separator.encode()
        with open(path, "wb") as file:
            file.writelines(separator.join(row) + b"\n" for row in zip(heads, *columns, strict=True))

    def assemble(self, path, parts):
        own = self.header if self.keeps else self._delimited(self.schema.names)
        concatenate_files(path, parts, own + self.separator.encode() + self._delimited(self.new) + b"\n")


class TabSeparated(Delimited):
    """Fields between tabs; no field may contain one."""

    ending, separator, same = ".tsv", "\t", "tsv"

    def _delimited(self, values):
        return "\t".join(map(_field, values)).encode()


def _field(value: object) -> str:
    """A cell: text as it is, nothing for null, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return _ENCODER.encode(value)


class Parquet(Writer):
    """A table. Parts are written in Arrow's own format, which holds every type; `assemble` writes Parquet."""

    ending, same = ".parquet", "table"

    def heads(self, rows):
        columns = [
            pyarrow.array([None if row is None else row.get(column.name) for row in rows], column.type)
            for column in self.schema
        ]
        return pyarrow.Table.from_arrays(columns, schema=self.schema)

    def kept(self, rows, unread):
        return rows

    def write(self, path, heads, types, new):
        table = with_columns(heads, types, new)
        options = pyarrow.ipc.IpcWriteOptions(compression="lz4" if pyarrow.Codec.is_available("lz4") else None)
        with pyarrow.ipc.new_stream(path, table.schema, options=options) as stream:
            stream.write_table(table)

    def assemble(self, path, parts):
        _write_parquet(path, _tables(parts))


class Arrow(Parquet):
    """A table in Arrow's own format, as a file that is mapped into memory."""

    ending = ".arrow"

    def assemble(self, path, parts):
        tables = _tables(parts)
        first = next(tables)
        with pyarrow.ipc.new_file(path, first.schema) as file:
            for table in itertools.chain([first], tables):
                file.write_table(table)


class Npy(Parquet):
    """The vectors alone as an array (rows, D) of NumPy; the other columns, row by row, in a table beside it.

    The first new column has the vectors.
    """

    ending, beside = ".npy", ".rows.parquet"

    def assemble(self, path, parts):
        with open(path, "wb") as file:
            rows = sum(table.num_rows for table in _tables(parts))
            for number, table in enumerate(_tables(parts)):
                vectors = np.concatenate([vectors_of(chunk)[0] for chunk in table.column(self.new[0]).chunks])
                if not number:
                    header = np.lib.format.header_data_from_array_1_0(vectors) | {"shape": (rows, vectors.shape[1])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(vectors).data)

    def assemble_beside(self, path, parts):
        _write_parquet(path, (table.drop_columns(self.new[0]) for table in _tables(parts)))


def _write_parquet(path: Path, tables: Iterable[pyarrow.Table]) -> None:
    writer = None
    try:
        for table in tables:
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _tables(parts: Sequence[Path]) -> Iterator[pyarrow.Table]:
    for part in parts:
        with pyarrow.ipc.open_stream(part) as stream:
            yield stream.read_all()


def with_columns(table: pyarrow.Table, types: dict[str, pyarrow.DataType], new: dict[str, Any]) -> pyarrow.Table:
    """A table with further columns by name."""
    for name, kind in types.items():
        values = new[name]
        table = table.append_column(name, values if isinstance(values, pyarrow.Array) else pyarrow.array(values, kind))
    return table


WRITERS: dict[str, type[Writer]] = {
    form.ending: form for form in (JsonLines, Delimited, TabSeparated, Parquet, Arrow, Npy)
}
