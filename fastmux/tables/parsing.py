"""Bytes to rows: what a line of each format holds, and why it is no row. Imports little: see `labelling.preparing`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow

from fastmux.lines import decode
from fastmux.tables.shard import MAX_ROW_BYTES, allow_long_fields

#: Characters of a row that is longer than a row may be, which are kept to know it by.
_KEPT = 1000


def parse_lines(
    rows: Sequence[bytes], kind: str, columns: Sequence[str] | None, once: Sequence[str] = (), exact: bool = False
) -> Iterator[dict[str, Any] | ValueError]:
    """What each row holds, by column, or why it is none.

    Args:
        kind: "jsonl", "tsv", "csv" or "text".
        columns: as in the source.
        once: keys that an object of JSON may have once alone. Others may be there twice; the last one is told.
        exact: integers of JSON that 64 bits do not hold are not rounded.
    """
    allow_long_fields()
    watched = [json.dumps(name, ensure_ascii=False).encode("utf-8", "replace") for name in once]
    for raw in rows:
        try:
            if kind != "jsonl":
                yield _text_row(raw, kind, columns)
            elif exact:
                yield exact_object(_line(raw), ())
            else:
                yield _json_row(raw, watched, once)
        except ValueError as error:
            yield error


def _json_row(raw: bytes, watched: Sequence[bytes], once: Sequence[str]) -> dict[str, Any]:
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError:
        values = None
    if type(values) is not dict or len(raw) > MAX_ROW_BYTES:
        # Half characters and integers of any length are no JSON to orjson; what is none to Python either, it tells.
        values = exact_object(_line(raw), ())
    for name in watched:
        if raw.count(name) > 1:
            exact_object(_line(raw), once)
    return values


def exact_object(line: str, once: Sequence[str] | None = None) -> dict[str, Any]:
    """An object of JSON, with integers of any length.

    Args:
        once: keys that it may have once alone; any key, within its values too, if None.

    Raises:
        ValueError: it is none, or has such a key twice; the message is the reason.
    """
    try:
        if once is None:
            values = _UNIQUE.decode(line)
        elif once:
            pairs = _PAIRS.decode(line)
            names = [name for name, _ in pairs] if isinstance(pairs, _Pairs) else []
            if twice := [name for name in once if names.count(name) > 1]:
                raise ValueError(f"has two columns {twice[0]!r}")
            values = _DECODER.decode(line)
        else:
            values = _DECODER.decode(line)
    except RecursionError as error:
        raise ValueError(f"not JSON: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"not a JSON object, but {type(values).__name__}")
    return values


class _Pairs(list):
    pass


def _no_json(constant: str) -> None:
    raise ValueError(f"not JSON: {constant} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(next(name for name in names if names.count(name) > 1))
    return values


class TwiceError(Exception):
    """An object of JSON has a key twice; the argument is the key."""


#: Made once: with an argument `json.loads` makes one for every row.
_DECODER = json.JSONDecoder(parse_constant=_no_json)
_PAIRS = json.JSONDecoder(parse_constant=_no_json, object_pairs_hook=_Pairs)
_UNIQUE = json.JSONDecoder(parse_constant=_no_json, object_pairs_hook=_unique)


def _line(raw: bytes) -> str:
    """A line as text.

    Raises:
        ValueError: it is none; the message is the reason.
    """
    if len(raw) > MAX_ROW_BYTES:
        raise ValueError(f"longer than {MAX_ROW_BYTES} bytes")
    try:
        line = decode(raw)
    except ValueError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    if "\0" in line:
        raise ValueError("holds a NUL")
    if not line.strip():
        raise ValueError("empty")
    return line


def _text_row(raw: bytes, kind: str, columns: Sequence[str] | None) -> dict[str, Any]:
    line = _line(raw)
    if kind == "text":
        return {"text": line}
    if kind == "tsv":
        fields = line.split("\t")
    elif '"' not in line and "\r" not in line:
        fields = line.split(",")
    else:
        try:
            fields = next(csv.reader([part + "\n" for part in line.split("\n")], strict=True))
        except csv.Error as error:
            raise ValueError(f"not CSV: {error}") from error
    if len(fields) != len(columns or ()):
        raise ValueError(f"has {len(fields)} columns, expected the {len(columns or ())} of the first line")
    return dict(zip(columns or (), fields, strict=True))


def column_values(column: pyarrow.ChunkedArray) -> list:
    """The values of a column; in the place of one that is said to be text and is none, a ValueError."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # what a file says is text need not be
        values: list = []
        for value in column:
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(ValueError(f"is not UTF-8: {error}"))
        return values


def whole_row(rows: Sequence[bytes] | pyarrow.Table, place: int) -> str:
    """A row as text that can be written: its line, or its columns as JSON."""
    if isinstance(rows, pyarrow.Table):
        cells = (column.slice(place, 1) for column in rows.columns)
        named = zip(rows.column_names, cells, strict=True)
        return "{" + ", ".join(f"{_ENCODER.encode(name)}: {_cell(cell)}" for name, cell in named) + "}"
    raw = rows[place]
    text = raw[:_KEPT] if len(raw) > MAX_ROW_BYTES else raw
    return text.decode("utf-8", "backslashreplace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


def _cell(cell: pyarrow.ChunkedArray) -> str:
    (value,) = column_values(cell)
    if isinstance(value, ValueError):
        value = cell.cast(pyarrow.binary())[0].as_py().decode("utf-8", "backslashreplace")
    try:
        text = _ENCODER.encode(value)
    except TypeError:  # a key of a map that JSON has no key for
        text = _ENCODER.encode(str(value))
    return text.encode("utf-8", "backslashreplace").decode()
