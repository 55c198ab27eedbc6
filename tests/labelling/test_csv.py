"""Quotes in CSV: what they hold, and what one costs that is never closed."""

from __future__ import annotations

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmux.tables.opening import open_source
from fastmux.tables.parsing import parse_lines


def rows_of(path, size: int) -> list[tuple]:
    """Every row with its line: what it holds, or why it is none."""
    source = open_source(path)
    return [
        row
        for shard in source.shards(lambda index: size)
        for row in zip(shard.numbers, parse_lines(shard.rows, source.kind, source.columns), strict=True)
    ]


def test_fields_of_csv_may_hold_the_end_of_a_line(label, models, tmp_path):
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_bytes(b'text,note\r\n"w1\r\nw2","a ""b"""\r\nw3,\r\n"w4\n\nw5",c\n')
    label(models["plain"], path, output, rows_per_shard=1)
    assert label(models["plain"], output, prefix="again_").dataset["text"] == ["w1\r\nw2", "w3", "w4\n\nw5"]


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path):
    path = tmp_path / "in.csv"
    good = b"".join(b"w%d,x\n" % i for i in range(1000))
    path.write_bytes(b'text,note\n"w1,x\n' + good + b'w2,"y\n' + good)
    rows = rows_of(path, 300)
    assert [number for number, row in rows if isinstance(row, ValueError)] == [2, 1003] and len(rows) == 2002


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.text('a",\n\r\u2028é '), min_size=2, max_size=2), min_size=1, max_size=6),
    size=st.integers(1, 4),
)
def test_whatever_csv_is_written_is_read(tmp_path_factory, rows, size):
    rows = [[first.replace("\r", "\r\n") + "x", second.replace("\r", "\r\n")] for first, second in rows]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["text", "note"], *rows])
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    path.write_bytes(text.getvalue().encode())
    assert [list(row.values()) for _, row in rows_of(path, size)] == rows
