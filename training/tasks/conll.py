"""CoNLL columns: a token a line with its tag, and a blank line between sentences."""

from __future__ import annotations

from pathlib import Path

from fastmux.lines import read_lines
from fastmux.training.tasks.readers import Table

#: Endings of files that are read so; all may have .gz after them.
CONLL_FORMATS = (".txt", ".conll", ".bio", ".iob", ".iob2")


def read_conll(path: Path, tokens: str = "tokens", tags: str = "tags") -> Table:
    """Reads lines of columns, the token first and its tag last, with blank lines between sentences.

    A line that has a tab is split at tabs (tokens may have spaces then), any other at spaces. Lines that begin with
    -DOCSTART- are skipped, and so are comments at the head of a sentence, "# id = 7", as MultiCoNER and CoNLL-U have
    them.

    Args:
        tokens, tags: The names of the table's columns. Each row has a list of tokens, and a list of their tags.

    Raises:
        ValueError: A line has another number of columns than the lines before it, or fewer than two; or there is no
            sentence. The message names the line.
    """
    table, words, own, width = Table(str(path), {tokens: [], tags: []}, [], []), [], [], 0
    for number, line in enumerate([*read_lines(path), ""], start=1):
        line = line.rstrip(" \t")
        if not line and words:
            for name, values in ((tokens, words), (tags, own)):
                table.columns[name].append(values)
            table.places.append(f"{path}: lines {number - len(words)} to {number - 1}")
            table.typed.append(True)
            words, own = [], []
        comment = line.startswith("# ") and "=" in line and not words
        if not line or comment or line.startswith("-DOCSTART-"):
            continue
        columns = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
        if len(columns) < 2 or not columns[0]:
            raise ValueError(f"{path}: line {number} must be 'token tag': {line!r}")
        width = width or len(columns)
        if len(columns) != width:
            raise ValueError(
                f"{path}: line {number} has {len(columns)} columns, the lines before it {width}, expected as many in "
                f"each: {line!r}"
            )
        words.append(columns[0])
        own.append(columns[-1])
    if not table.places:
        raise ValueError(f"{path}: no sentences")
    return table
