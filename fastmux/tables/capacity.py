"""Whether an output format can hold every row exactly; checked before any row is labelled."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence

import pyarrow
import pyarrow.parquet
from pyarrow import types

from fastmux.tables.line_source import LineSource
from fastmux.tables.opening import Source
from fastmux.tables.parsing import TwiceError, column_values, exact_object, parse_lines
from fastmux.tables.seen import CannotHoldError, Seen
from fastmux.tables.table_source import TableSource

#: How many rows are checked together.
_ROWS = 1024
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_SCALARS = (
    types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string,
    types.is_string_view,
)  # fmt: skip


def settled_schema(source: Source, ending: str | None, new: Sequence[str]) -> pyarrow.Schema:
    """The input's columns as the output has them, after a check that they can hold every row.

    Lines that cannot be parsed are skipped. From JSON lines to JSON lines, only keys with the names of new columns are
    looked for.

    Args:
        ending: The output's ending: ".jsonl", ".csv", ".tsv" or ".parquet"; None for a data set in memory.
        new: The names of the columns that are added.

    Returns:
        The names and types of the columns. The types matter only for tables.

    Raises:
        CannotHoldError: The output cannot hold a column or a value, or a row already has a column with the name of a
            new one. The message names column and row.
    """
    if isinstance(source, TableSource):
        _check_names(source.name, source.columns, ending, new)
        if ending in (None, ".parquet"):
            check_types(source.schema, ending)
        else:
            _check_table(source, ending)
        return source.schema
    if source.kind != "jsonl":
        _check_names(source.name, source.columns, ending, new)
        _check_fields(source, ending)
        return pyarrow.schema([(name, pyarrow.string()) for name in source.columns])
    if ending == ".jsonl":
        _check_keys(source, new)
        return pyarrow.schema([])
    return _schema_of_json(source, ending, new)


def _check_names(name: str, columns: Sequence[str], ending: str | None, new: Sequence[str]) -> None:
    if taken := sorted(set(new) & set(columns)):
        raise CannotHoldError(
            f"{name} has a column {', '.join(map(repr, taken))} already; prefix gives the new columns other names"
        )
    if ending != ".parquet" and (twice := sorted({column for column in columns if columns.count(column) > 1})):
        raise CannotHoldError(f"{name} has two columns {twice[0]!r}, which {_named(ending)} cannot hold")


def check_types(schema: pyarrow.Schema, ending: str | None) -> None:
    """Raise CannotHoldError for a type that Parquet, or a data set, would give back as another one.

    A dictionary may come back as its values, or with indices of another width.
    """
    for column in schema:
        try:
            stored = (_written_and_read(column) if ending else _of_data_set(column)).field(0).type
        except (pyarrow.ArrowException, ValueError, TypeError, KeyError) as error:
            raise CannotHoldError(
                f"column {column.name!r} is {column.type}, which {_named(ending)} cannot hold: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if stored != column.type and _values_of(stored) != _values_of(column.type):
            raise CannotHoldError(
                f"column {column.name!r} is {column.type}, which {_named(ending)} cannot hold: it would be {stored}"
            )


def _of_data_set(column: pyarrow.Field) -> pyarrow.Schema:
    import datasets

    return datasets.Dataset(pyarrow.schema([column]).empty_table()).data.schema


def _written_and_read(column: pyarrow.Field) -> pyarrow.Schema:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.schema([column]).empty_table(), file)
    return pyarrow.parquet.read_schema(file)


def _values_of(kind: pyarrow.DataType) -> pyarrow.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _check_table(source: TableSource, ending: str) -> None:
    for column in source.schema:
        if wrong := _no_json(column.type):
            raise CannotHoldError(
                f"column {column.name!r} is {column.type}, and {ending} cannot hold {wrong}: write .parquet, or cast "
                "it to text"
            )
    check = _value_check(ending)
    for shard in source.shards(lambda index: _ROWS):
        for name, column in zip(source.columns, shard.table.columns, strict=True):
            _check_values(name, column_values(column), shard.numbers, check)


def _no_json(kind: pyarrow.DataType) -> str | None:
    """The part of a type that JSON cannot express; None if it can express all of it."""
    if any(known(kind) for known in _SCALARS):
        return None
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _no_json(kind.value_type)
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            return "two keys of one name"
        return next((wrong for field in kind if (wrong := _no_json(field.type))), None)
    if any(known(kind) for known in _LISTS):
        return _no_json(kind.value_type)
    return str(kind)


_LISTS = (
    types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view,
)  # fmt: skip


def _check_fields(source: LineSource, ending: str | None) -> None:
    """Check the fields of CSV, TSV and text. All are text, which every output but TSV can hold."""
    if ending != ".tsv" or source.kind == "tsv":
        return
    for row, values in _good_rows(source):
        for name, value in values.items():
            _check_values(name, [value], [row], _tsv_problem)


def _good_rows(source: LineSource) -> Iterator[tuple[int, dict]]:
    for shard in source.shards(lambda index: _ROWS):
        for row, values in zip(shard.numbers, parse_lines(shard.rows, source.kind, source.columns), strict=True):
            if isinstance(values, dict):
                yield row, values


def _check_values(name: str, values: list, rows: Sequence[int], check: Callable[[object], str | None]) -> None:
    for value, row in zip(values, rows, strict=True):
        if problem := str(value) if isinstance(value, ValueError) else check(value):
            raise CannotHoldError(f"column {name!r} of row {row} {problem}")


def _value_check(ending: str) -> Callable[[object], str | None]:
    return {".jsonl": _json_problem, ".csv": _csv_problem, ".tsv": _tsv_problem}[ending]


def _json_problem(value: object) -> str | None:
    if value is None or isinstance(value, (str, int)):
        return None
    try:
        _STRICT.encode(value)
    except ValueError:
        return f"is {value!r:.100}, and .jsonl cannot hold NaN or infinity: write .parquet"
    return None


def _csv_problem(value: object) -> str | None:
    return "holds a NUL, which .csv cannot hold" if isinstance(value, str) and "\0" in value else None


def _tsv_problem(value: object) -> str | None:
    if isinstance(value, str) and any(mark in value for mark in "\t\n\r\0"):
        return "holds a tab, an end of line or a NUL, which .tsv cannot hold"
    return None


def _check_keys(source: LineSource, new: Sequence[str]) -> None:
    """Check that no JSON object has a key of a new column. Only lines that may have one are parsed."""
    marks = [json.dumps(name, ensure_ascii=False).encode() for name in new]
    marks.append(b"\\u00" if all(map(str.isascii, new)) else b"\\u")  # a key may be written with escapes
    for shard in source.shards(lambda index: _ROWS):
        block = b"\n".join(shard.rows)
        if not any(mark in block for mark in marks):
            continue
        some = [place for place, raw in enumerate(shard.rows) if any(mark in raw for mark in marks)]
        found = parse_lines([shard.rows[place] for place in some], "jsonl", None)
        for place, values in zip(some, found, strict=True):
            if isinstance(values, dict) and (taken := [name for name in new if name in values]):
                raise _taken(taken[0], shard.numbers[place])


def _taken(name: str, row: int) -> CannotHoldError:
    return CannotHoldError(f"row {row} has a column {name!r} already; prefix gives the new columns other names")


def _schema_of_json(source: LineSource, ending: str | None, new: Sequence[str]) -> pyarrow.Schema:
    found: dict[str, Seen] = {}
    texts = ending in (".csv", ".tsv")
    try:
        _look_at_all(source, ending, new, found, texts)
        types = [(name, pyarrow.string() if texts else seen.type()) for name, seen in found.items()]
    except CannotHoldError as error:
        raise CannotHoldError(f"{source.name}: {error}") from error
    if not texts:
        check_types(pyarrow.schema(types), ending)
    return pyarrow.schema(types)


def _look_at_all(
    source: LineSource, ending: str | None, new: Sequence[str], found: dict[str, Seen], texts: bool
) -> None:
    for shard in source.shards(lambda index: _ROWS):
        rows, numbers = [], []
        for row, raw, values in zip(shard.numbers, shard.rows, parse_lines(shard.rows, "jsonl", None), strict=True):
            if isinstance(values, ValueError):
                continue
            try:
                values = exact_object(raw.decode())
            except TwiceError as error:
                raise CannotHoldError(
                    f"row {row} has the key {error.args[0]!r} twice, which {_named(ending)} cannot hold"
                ) from error
            rows.append(values)
            numbers.append(row)
            if taken := [name for name in new if name in values]:
                raise _taken(taken[0], row)
        for name in dict.fromkeys(key for row in rows for key in row):
            own = [(row[name], number) for row, number in zip(rows, numbers, strict=True) if name in row]
            column, lines = [value for value, _ in own], [number for _, number in own]
            if texts:
                found.setdefault(name, Seen(name))
                _check_values(name, column, lines, _no_number_or_half)
                _check_values(name, column, lines, _value_check(ending))
            else:
                found.setdefault(name, Seen(name)).add(column, lines)


def _no_number_or_half(value: object) -> str | None:
    try:
        _STRICT.encode(value).encode()
    except UnicodeEncodeError:
        return "holds half a character"
    except ValueError:
        return "is a number beyond a double"
    return None


def _named(ending: str | None) -> str:
    return ending or "a data set in memory"
