"""Parse lines of each format into rows, or say why a line is not a row.

Imports neither torch nor transformers, for the processes of `fastmux.labelling.ahead`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow

from fastmux.lines import decode
from fastmux.tables.shard import MAX_ROW_BYTES, allow_long_fields

#: How many characters of a row that is too long are kept in the list of rejected rows.
_KEPT = 1000


def parse_lines(
    rows: Sequence[bytes], kind: str, columns: Sequence[str] | None, once: Sequence[str] = (), exact: bool = False
) -> Iterator[dict[str, Any] | ValueError]:
    """Parse each line into a row by column; yield a ValueError for a line that is not a row.

    Args:
        kind: "jsonl", "tsv", "csv" or "text".
        columns: The source's columns.
        once: The keys that a JSON object may have only once. Of any other key the last value counts.
        exact: Do not round integers that do not fit 64 bits.
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
        # orjson refuses half characters and long integers; Python's parser takes them, or says what is wrong.
        values = exact_object(_line(raw), ())
    for name in watched:
        if raw.count(name) > 1:
            exact_object(_line(raw), once)
    return values


def exact_object(line: str, once: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse a JSON object with integers of any length.

    Args:
        once: The keys that it may have only once. If None, no key may be there twice, nested objects included.

    Raises:
        ValueError: The line is not a JSON object, or has such a key twice. The message is the reason.
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
    """A JSON object has a key twice; the argument is the key."""


#: Made once, as `json.loads` with these arguments would make one for every row.
_DECODER = json.JSONDecoder(parse_constant=_no_json)
_PAIRS = json.JSONDecoder(parse_constant=_no_json, object_pairs_hook=_Pairs)
_UNIQUE = json.JSONDecoder(parse_constant=_no_json, object_pairs_hook=_unique)


def _line(raw: bytes) -> str:
    """Decode a line.

    Raises:
        ValueError: The line is empty or is not text. The message is the reason.
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
    """The values of a column; a ValueError in the place of text that is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # a file may declare bytes as text that are not
        values: list = []
        for value in column:
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(ValueError(f"is not UTF-8: {error}"))
        return values


def whole_row(rows: Sequence[bytes] | pyarrow.Table, place: int) -> str:
    """A row as text for the list of rejected rows: its line, or its columns as JSON."""
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
    except TypeError:  # a key of a map that JSON does not allow
        text = _ENCODER.encode(str(value))
    return text.encode("utf-8", "backslashreplace").decode()
