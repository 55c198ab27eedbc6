"""What rows with labels look like in a file: JSON lines, CSV, TSV or Parquet.

A row is written in two halves. Its own columns are made into a head where it is parsed, ahead of the model; what the
model says of it is put behind that. Rows of JSON lines that stay JSON lines keep their object as it was written.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from fastmux.labelling.rows import Row

#: Made once: with an argument `json.dumps` makes one for every row.
_ENCODER, _STRICT = json.JSONEncoder(ensure_ascii=False), json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class Format:
    """How rows are written.

    Args:
        columns: of the input; None where every row names its own.
        schema: of the input's columns, for Parquet.
    """

    ending: str

    def __init__(self, columns: list[str] | None, schema: pyarrow.Schema | None = None):
        self.columns, self.schema = columns, schema

    def head(self, row: Row) -> Any:
        """A row's own columns.

        Raises:
            ValueError: they cannot be written so; the message is the reason.
        """
        raise NotImplementedError

    def write(self, path: Path, heads: Sequence, types: dict[str, pyarrow.DataType], answers: dict[str, list]) -> None:
        """A whole file: heads of rows, and the new columns' types and values, by name."""
        raise NotImplementedError

    def join(self, path: Path, parts: Sequence[Path]) -> None:
        """One file of several that `write` wrote."""
        with open(path, "wb") as whole:
            for number, part in enumerate(parts):
                with open(part, "rb") as file:
                    if number:
                        self._skip_header(file)
                    shutil.copyfileobj(file, whole, 2**20)

    def _skip_header(self, file: io.BufferedReader) -> None:
        pass


class JsonLines(Format):
    """An object a line."""

    ending = ".jsonl"

    def head(self, row: Row) -> str:
        text = row.source
        if text is None:
            try:
                text = _STRICT.encode(row.values)
            except (TypeError, ValueError) as error:
                raise ValueError(f"cannot be written as JSON: {error}") from error
        return text.rstrip().removesuffix("}").rstrip()

    def write(self, path, heads, types, answers):
        names = list(answers)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for head, *values in zip(heads, *answers.values(), strict=True):
                said = _ENCODER.encode(dict(zip(names, values, strict=True)))
                file.write(f"{head}, {said[1:]}\n")


class Delimited(Format):
    """Fields between commas, in quotes where they must be."""

    ending, separator = ".csv", ","

    def head(self, row: Row) -> str:
        if self.columns is None or row.values.keys() != set(self.columns):
            unlike = sorted(row.values.keys() ^ set(self.columns))
            raise ValueError(
                f"has other columns than the first row ({', '.join(unlike)}), which {self.ending} cannot hold"
            )
        return self._joined([row.values[name] for name in self.columns])

    def _joined(self, values: Sequence) -> str:
        out = io.StringIO()
        # Fields are put in quotes for what ends a line, which is why there is an end to take off.
        csv.writer(out, lineterminator="\r\n").writerow([_field(value) for value in values])
        return out.getvalue()[:-2]

    def write(self, path, heads, types, answers):
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(self._joined([*self.columns, *answers]) + "\n")
            for head, *values in zip(heads, *answers.values(), strict=True):
                file.write(f"{head}{self.separator}{self._joined(values)}\n")

    def _skip_header(self, file):
        # The names of columns may hold an end of line in quotes.
        quotes = 0
        while line := file.readline():
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                return


class TabSeparated(Delimited):
    """Fields between tabs, which no field may hold."""

    ending, separator = ".tsv", "\t"

    def _joined(self, values):
        fields = [_field(value) for value in values]
        if any(mark in field for field in fields for mark in "\t\n\r"):
            raise ValueError("holds a tab or an end of line, which .tsv cannot hold")
        return "\t".join(fields)

    def _skip_header(self, file):
        file.readline()


class Parquet(Format):
    """A table; the types of the columns are the input's, or what the first rows show where those have none."""

    ending = ".parquet"

    def head(self, row: Row) -> dict:
        if row.source is None:  # rows that have types already
            return row.values
        unknown = sorted(row.values.keys() - set(self.schema.names))
        if unknown:
            raise ValueError(
                f"has columns that the first rows have not ({', '.join(unknown)}), which .parquet cannot hold"
            )
        try:
            pyarrow.RecordBatch.from_pylist([row.values], self.schema)
        except (pyarrow.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"has a value of another type than the first rows: {error}") from error
        return row.values

    def write(self, path, heads, types, answers):
        own = pyarrow.Table.from_pylist(list(heads), self.schema)
        said = [pyarrow.array(values, types[name]) for name, values in answers.items()]
        for name, values in zip(answers, said, strict=True):
            own = own.append_column(name, values)
        pyarrow.parquet.write_table(own, path)

    def join(self, path, parts):
        with pyarrow.parquet.ParquetWriter(path, pyarrow.parquet.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))


FORMATS: dict[str, type[Format]] = {form.ending: form for form in (JsonLines, Delimited, TabSeparated, Parquet)}


def _field(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be written as text: {error}") from error


def schema_of(rows: Sequence[dict]) -> pyarrow.Schema:
    """The types of the columns of some rows, by their values; columns without a value are text.

    Raises:
        ValueError: a column has values of several types.
    """
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    fields = []
    for name in names:
        try:
            kind = pyarrow.array([row.get(name) for row in rows]).type
        except (pyarrow.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(
                f"column {name!r} has values of several types, which .parquet cannot hold: {error}"
            ) from error
        fields.append((name, pyarrow.string() if pyarrow.types.is_null(kind) else kind))
    return pyarrow.schema(fields)


def text_schema(columns: Sequence[str]) -> pyarrow.Schema:
    """Columns of text."""
    return pyarrow.schema([(name, pyarrow.string()) for name in columns])
