"""Bytes to rows: what a row of each format holds, and why it is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow

from fastmux.labelling.shard import MAX_ROW_BYTES, RawShard, allow_long_fields
from fastmux.lines import decode, without_end

#: Characters of a rejected row that are kept to know it by.
_KEPT = 1000


@dataclass(frozen=True)
class Reject:
    """A row that has no label.

    Attributes:
        number: of its line, or of the row, from 1.
        reason: what is wrong with it.
        content: what it begins with.
    """

    number: int
    reason: str
    content: str


@dataclass(frozen=True)
class Row:
    """A row that parsed.

    Attributes:
        number: of its line, or of the row, from 1.
        values: by column.
        source: of JSON, the object as it is written.
    """

    number: int
    values: dict[str, Any]
    source: str | None = None


def parse_rows(shard: RawShard, kind: str, columns: list[str] | None) -> Iterator[Row | Reject]:
    """The rows of a shard: kind is "jsonl", "tsv", "csv", "text" or "table"; columns as in the source."""
    if isinstance(shard.rows, pyarrow.Table):
        yield from _table_rows(shard.rows, shard.numbers)
        return
    allow_long_fields()
    for number, raw in zip(shard.numbers, shard.rows, strict=True):
        try:
            yield _parse(number, raw, kind, columns)
        except ValueError as error:
            yield Reject(number, str(error), shown(raw))


def shown(raw: bytes | str) -> str:
    """The beginning of a row, as text that can be written."""
    text = raw[: 4 * _KEPT].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return without_end(text)[:_KEPT].encode("utf-8", "backslashreplace").decode()


def _parse(number: int, raw: bytes, kind: str, columns: list[str] | None) -> Row:
    if len(raw) > MAX_ROW_BYTES and not raw.endswith(b"\n"):
        raise ValueError(f"longer than {MAX_ROW_BYTES} bytes")
    try:
        line = without_end(decode(raw))
    except ValueError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    if "\0" in line:
        raise ValueError("holds a NUL")
    if not line.strip():
        raise ValueError("empty")
    if kind == "text":
        return Row(number, {"text": line})
    if kind == "jsonl":
        return Row(number, _json_object(line), line)
    if kind == "tsv":
        fields = line.split("\t")
    else:
        try:
            fields = next(csv.reader([line + "\n"] if "\n" not in line else _lines(line), strict=True))
        except csv.Error as error:
            raise ValueError(f"not CSV: {error}") from error
    if len(fields) != len(columns):
        raise ValueError(f"has {len(fields)} columns, expected the {len(columns)} of the first line")
    return Row(number, dict(zip(columns, fields, strict=True)))


def _lines(text: str) -> list[str]:
    return [line + "\n" for line in text.split("\n")]


def _json_object(line: str) -> dict:
    try:
        values = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"not a JSON object, but {type(values).__name__}")
    return values


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


#: Made once: with an argument `json.loads` makes one for every row.
_DECODER = json.JSONDecoder(parse_constant=_no_json)


def _table_rows(table: pyarrow.Table, numbers: Sequence[int]) -> Iterator[Row | Reject]:
    columns = {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    for place, number in enumerate(numbers):
        values = {name: column[place] for name, column in columns.items()}
        bad = next((name for name, value in values.items() if isinstance(value, _NotText)), None)
        if bad is None:
            yield Row(number, values)
        else:
            yield Reject(number, f"column {bad!r} is not UTF-8: {values[bad].problem}", "")


@dataclass(frozen=True)
class _NotText:
    problem: str


def _values(column: pyarrow.ChunkedArray) -> list:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # what a file says is text need not be
        values: list = []
        for value in column:
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(_NotText(str(error)))
        return values
