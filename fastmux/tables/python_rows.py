"""Rows of Python objects as an Arrow table that holds every value exactly; otherwise they are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow


def table_of_rows(rows: Sequence, name: str) -> pyarrow.Table:
    """Make a table of texts, or of rows by column. Where a row lacks a column, the table has null.

    Raises:
        ValueError: An item is not a row, or a column has values of several types; the message names column and row.
    """
    if all(isinstance(row, str) for row in rows):
        return pyarrow.table({"text": _column("text", list(rows))})
    kind = str if isinstance(rows[0], str) else Mapping
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, kind):
            raise ValueError(
                f"row {number} of {name} is a {type(row).__name__}, expected texts, or rows by column, all alike"
            )
        if kind is Mapping and (wrong := [key for key in row if not isinstance(key, str)]):
            raise ValueError(f"row {number} of {name} has a column {wrong[0]!r}, expected a name")
    names = dict.fromkeys(key for row in rows for key in row)
    return pyarrow.table({key: _column(key, [row.get(key) for row in rows]) for key in names})


def table_of_columns(columns: Mapping) -> pyarrow.Table:
    """Make a table of columns by name.

    Raises:
        ValueError: A name is not text, or the columns differ in length; or as in `table_of_rows`.
    """
    lengths = {}
    for key, values in columns.items():
        if not isinstance(key, str):
            raise ValueError(f"the input has a column {key!r}, expected a name")
        if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
            raise ValueError(
                f"the input is a dict, expected columns by name, but {key!r} is a {type(values).__name__}; rows go "
                "into a list"
            )
        lengths[key] = len(values)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have other lengths: {lengths}")
    arrow = (pyarrow.Array, pyarrow.ChunkedArray)
    return pyarrow.table({key: v if isinstance(v, arrow) else _column(key, list(v)) for key, v in columns.items()})


def _column(name: str, values: list) -> pyarrow.Array:
    try:
        array = pyarrow.array(values)
        back = array.to_pylist()
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        row = _first_wrong(values)
        raise ValueError(
            f"column {name!r} of row {row} is {values[row - 1]!r:.100}, which does not go into one column with those "
            f"before it: {str(error).splitlines()[0]}"
        ) from error
    _check_same(name, values, back, array.type)
    return array


def check_objects(frame: Any, table: pyarrow.Table) -> None:
    """Raise ValueError for an object of a pandas table that Arrow has changed. NaN may become null."""
    for name, kind in frame.dtypes.items():
        if getattr(kind, "kind", "") == "O" and str(kind) == "object":
            column = table.column(str(name))
            values = [
                None if stored is None and _is_missing(given) else given
                for given, stored in zip(frame[name].tolist(), column.to_pylist(), strict=True)
            ]
            _check_same(str(name), values, column.to_pylist(), column.type)


def _is_missing(value: Any) -> bool:
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))


def _check_same(name: str, values: list, back: list, kind: pyarrow.DataType) -> None:
    for row, (given, stored) in enumerate(zip(values, back, strict=True), start=1):
        if not _same(given, stored):
            raise ValueError(f"column {name!r} of row {row} is {given!r:.100}, which a column of {kind} cannot hold")


def _first_wrong(values: list) -> int:
    """The number of the first row that does not fit into one column with the rows before it."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            pyarrow.array(values[:middle]).to_pylist()
            good = middle
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError):
            bad = middle
    return bad


def _same(given: Any, stored: Any) -> bool:
    """Whether Arrow gives a value back unchanged. A key that an object lacks may come back as null."""
    if isinstance(given, np.generic):
        given = given.item()
    if given is stored:
        return True
    if isinstance(given, Mapping):
        return isinstance(stored, dict) and all(_same(given.get(key), stored.get(key)) for key in {*given, *stored})
    if isinstance(stored, list):
        if (
            isinstance(given, (str, bytes, set, frozenset))
            or not hasattr(given, "__len__")
            or len(given) != len(stored)
        ):
            return False
        return all(map(_same, given, stored))
    if given is None or stored is None or isinstance(given, bool) is not isinstance(stored, bool):
        return False
    if isinstance(stored, float) and math.isnan(stored):
        return given != given
    same = given == stored
    # A datetime with a time zone never equals one without, and a date never equals a datetime.
    return same if isinstance(same, bool) else bool(same)
