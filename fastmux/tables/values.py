"""Read named columns of an input, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastmux.tables.opening import Source
from fastmux.tables.parsing import column_values, parse_lines
from fastmux.tables.table_source import TableSource

_ROWS = 1024


def column_names(source: Source) -> list[str]:
    """The names of an input's columns. For JSON lines, the keys of its first rows."""
    if isinstance(source, TableSource) or source.columns is not None:
        return source.columns or []
    return list(dict.fromkeys(name for row in source.sample for name in row))


def check_columns(source: Source, wanted: Sequence[str]) -> None:
    """Raise ValueError if a wanted column does not exist or exists twice. The message lists the columns."""
    names = column_names(source)
    for name in wanted:
        if name not in names:
            raise ValueError(f"{source.name} has no column {name!r}; there are {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise ValueError(f"{source.name} has {names.count(name)} columns {name!r}; give them names of their own")


def values_of(source: Source, names: Sequence[str]) -> Iterator[tuple[int, Sequence[Any] | ValueError]]:
    """Yield the number of each row, and its values in these columns or why it cannot be parsed."""
    for shard in source.shards(lambda index: _ROWS):
        if isinstance(source, TableSource):
            columns = [column_values(shard.table.column(source.columns.index(name))) for name in names]
            yield from zip(shard.numbers, zip(*columns, strict=True), strict=True)
            continue
        rows = parse_lines(shard.rows, source.kind, source.columns, names)
        for number, row in zip(shard.numbers, rows, strict=True):
            yield number, row if isinstance(row, ValueError) else [row.get(name) for name in names]
