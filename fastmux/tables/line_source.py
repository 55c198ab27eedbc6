"""Rows of a file of lines: JSON lines, CSV, TSV or text."""

from __future__ import annotations

import contextlib
import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fastmux.lines import RawLines, decode, without_end
from fastmux.tables.parsing import parse_lines
from fastmux.tables.shard import MAX_ROW_BYTES, SHARD_BYTES, RawShard, Sizes, allow_long_fields

#: How many rows at the start of an input are read to find out what it holds.
_SAMPLE = 100


class LineSource:
    """A text file with a row a line: "jsonl", "tsv" or "text"; or "csv", where quotes may hold an end of line.

    Attributes:
        columns: The names in the first line of TSV and CSV; ["text"] for text; None for JSON, where each row has names.
        header: The first line of TSV and CSV as it is written; empty for other formats.
        sample: The first rows that can be parsed.
        unit: What `RawShard.numbers` counts.

    Raises:
        ValueError: The file cannot be read, has no row at its start, or its first line names no columns.
    """

    unit = "line"
    total: int | None = None

    def __init__(self, path: Path, kind: str):
        self.path, self.kind, self.name = path, kind, str(path)
        self.header = b""
        self.columns = ["text"] if kind == "text" else None if kind == "jsonl" else self._read_header()
        self.sample = self._sample()

    def _read_header(self) -> list[str]:
        first = next(iter(RawLines(self.path, MAX_ROW_BYTES)), None)
        if first is None:
            raise ValueError(f"{self.path} is empty, expected a first line with the names of its columns")
        try:
            line = without_end(decode(first))
        except ValueError as error:
            raise ValueError(f"{self.path} must be UTF-8, but line 1 has {error}") from error
        self.header = line.encode()
        if "\0" in line:
            raise ValueError(f"{self.path} must be text, but line 1 holds a NUL")
        names = line.split("\t") if self.kind == "tsv" else next(csv.reader([line]), [])
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"{self.path}: the first line must name every column once, got {names}")
        return names

    def _sample(self) -> list[dict]:
        first = next(self.shards(lambda index: _SAMPLE), None)
        if first is None:
            raise ValueError(f"{self.name} has no rows")
        rows = list(parse_lines(first.rows, self.kind, self.columns))
        good = [row for row in rows if isinstance(row, dict)]
        # Empty lines may come first. If nothing else can be parsed either, the file has another format.
        wrong = [place for place, row in enumerate(rows) if not isinstance(row, dict)]
        said = [place for place in wrong if str(rows[place]) != "empty"]
        array = self.kind == "jsonl" and said and first.rows[said[0]].lstrip()[:1] == b"["
        if (not good and (said or self.kind == "jsonl")) or (array and str(rows[said[0]]).startswith("not JSON")):
            place = (said or wrong)[0]
            hint = "; a file that is one JSON array is not read: write an object a line (jq -c '.[]')" if array else ""
            none = "" if good else f"none of the first {len(rows)} lines is a row; "
            raise ValueError(f"{self.name}: {none}line {first.numbers[place]}: {rows[place]}{hint}")
        return good

    def _blocks(self) -> Iterator[tuple[list[bytes], Sequence[int]]]:
        """Yield blocks of rows without their line ends, and the numbers of their lines."""
        self._lines = RawLines(self.path, MAX_ROW_BYTES)
        if self.kind == "csv":
            numbered = enumerate(self._lines, start=1)
            next(numbered, None)
            for number, row in _csv_rows(numbered, len(self.columns)):
                yield [row[:-1].removesuffix(b"\r") if row.endswith(b"\n") else row], [number]
            return
        begin = 1
        for block in self._lines.blocks():
            numbers: Sequence[int] = range(begin, begin + len(block))
            begin += len(block)
            if self.kind == "tsv" and numbers and numbers[0] == 1:
                block, numbers = block[1:], numbers[1:]
            yield block, numbers

    def shards(self, sizes: Sizes) -> Iterator[RawShard]:
        """Yield all rows, in shards of these sizes."""
        file_size = max(1, self.path.stat().st_size)
        kept: list[bytes] = []
        numbers: list[int] = []
        size = index = 0
        rows = sizes(index)
        for block, lines in self._blocks():
            length = sum(map(len, block))
            if len(kept) + len(block) < rows and size + length < SHARD_BYTES:
                kept += block
                numbers += lines
                size += length
                continue
            for number, row in zip(lines, block, strict=True):
                kept.append(row)
                numbers.append(number)
                size += len(row)
                if len(kept) == rows or size >= SHARD_BYTES:
                    yield RawShard(index, kept, numbers, min(1.0, self._lines.position / file_size))
                    kept, numbers, size, index = [], [], 0, index + 1
                    rows = sizes(index)
        if kept:
            yield RawShard(index, kept, numbers, 1.0)


def _csv_rows(lines: Iterable[tuple[int, bytes]], columns: int) -> Iterator[tuple[int, bytes]]:
    """Rows of CSV; one row has several lines where a quoted field has a line end.

    A quote that is never closed would turn the rest of the file into one row. If the lines up to the closing quote do
    not make a row of so many columns, the first line alone is yielded as a row, which will not parse, and reading goes
    on at the next line.
    """
    allow_long_fields()
    source = iter(lines)
    waiting: deque[tuple[int, bytes]] = deque()
    while (first := waiting.popleft() if waiting else next(source, None)) is not None:
        number, row = first
        if row.count(b'"') % 2 == 0:  # no quote is left open, or the row is malformed anyway
            yield number, row
            continue
        spanned = [first]

        def pull(spanned=spanned) -> Iterator[str]:
            yield spanned[0][1].decode("utf-8", "replace")
            size = len(spanned[0][1])
            while size <= MAX_ROW_BYTES and (line := waiting.popleft() if waiting else next(source, None)):
                spanned.append(line)
                size += len(line[1])
                yield line[1].decode("utf-8", "replace")

        fields = None
        with contextlib.suppress(csv.Error):
            fields = next(csv.reader(pull(), strict=True), None)
        if fields is not None and len(fields) == columns:
            yield number, b"".join(line for _, line in spanned)
        else:
            yield first
            waiting.extendleft(reversed(spanned[1:]))
