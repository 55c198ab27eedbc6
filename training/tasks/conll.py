"""Tagged tokens; and CoNLL columns, a token a line with its tag, and a blank line between sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from fastmux.lines import read_lines
from training.tasks.labels import LabelColumn

#: Endings of files that are read so; all may have .gz after them.
CONLL_FORMATS = (".txt", ".conll", ".bio", ".iob", ".iob2")


@dataclass(frozen=True)
class TaggedTokens:
    """A file's rows.

    Attributes:
        rows: The tokens of each row.
        tags: A column with the tag and the place of every token of the file, one row after the other.
    """

    rows: list[list[str]]
    tags: LabelColumn


def dataset_of(parts: Iterable[TaggedTokens], tag_id: Callable[[object, bool], int]) -> Dataset:
    """The rows of all files as columns ``tokens`` and ``tags``.

    Args:
        tag_id: The id of a tag, as `LabelColumn.read` calls it.
    """
    columns: dict[str, list] = {"tokens": [], "tags": []}
    for part in parts:
        ids = iter(part.tags.read(tag_id))
        columns["tokens"] += part.rows
        columns["tags"] += [[next(ids) for _ in row] for row in part.rows]
    return Dataset.from_dict(columns)


def read_conll(path: Path) -> TaggedTokens:
    """Reads lines of columns, the token first and its tag last, with blank lines between sentences.

    A line that has a tab is split at tabs (tokens may have spaces then), any other at spaces. Lines that begin with
    -DOCSTART- are skipped, and so are comments at the head of a sentence, "# id = 7", as MultiCoNER and CoNLL-U have
    them.

    Raises:
        ValueError: A line has another number of columns than the lines before it, or fewer than two; or there is no
            sentence. The message names the line.
    """
    rows: list[list[str]] = [[]]
    tags, places, width = [], [], 0
    for number, line in enumerate(read_lines(path), start=1):
        line = line.rstrip(" \t")
        if not line and rows[-1]:
            rows.append([])
        comment = line.startswith("# ") and "=" in line and not rows[-1]
        if not line or comment or line.startswith("-DOCSTART-"):
            continue
        columns = line.split("\t") if "\t" in line else line.split(" ")
        columns = [part for part in columns if part or "\t" in line]
        if len(columns) < 2 or not columns[0]:
            raise ValueError(f"{path}: line {number} must be 'token tag': {line!r}")
        width = width or len(columns)
        if len(columns) != width:
            raise ValueError(
                f"{path}: line {number} has {len(columns)} columns, the lines before it {width}, expected as many in "
                f"each: {line!r}"
            )
        rows[-1].append(columns[0])
        tags.append(columns[-1])
        places.append(f"line {number}")
    if not tags:
        raise ValueError(f"{path}: no sentences")
    return TaggedTokens(rows if rows[-1] else rows[:-1], LabelColumn(str(path), "tag", tags, places, typed=True))
