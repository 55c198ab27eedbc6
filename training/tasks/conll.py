"""CoNLL columns: a token a line with its tag, and a blank line between sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from fastmux.lines import read_lines

#: Endings of files that are read so; all may have .gz after them.
CONLL_FORMATS = (".txt", ".conll", ".bio", ".iob", ".iob2")


@dataclass(frozen=True)
class Sentence:
    """Tokens, each with its tag and the number of its line."""

    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def read_sentences(path: Path, known: list[str] | None = None) -> list[Sentence]:
    """Reads lines of columns, the token first and its tag last, with blank lines between sentences.

    A line that has a tab is split at tabs (tokens may have spaces then), any other at single spaces. Lines that begin
    with -DOCSTART- are skipped, and so are comments at the head of a sentence, "# id = 7", as MultiCoNER and CoNLL-U
    have them.

    Args:
        path: the file.
        known: the tags that there may be. None for any; every line must then have as many columns as the first.

    Raises:
        ValueError: names the first line that has another shape or an unknown tag; or there is no sentence.
    """
    path = Path(path)
    sentences = [Sentence()]
    width = 0
    for number, line in enumerate(read_lines(path), start=1):
        line = line.rstrip(" \t")
        if not line:
            if sentences[-1].tokens:
                sentences.append(Sentence())
            continue
        columns = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part or known]
        comment = line.startswith("# ") and "=" in line and not sentences[-1].tokens
        if columns[0] == "-DOCSTART-" or (comment and known is None):
            continue
        if len(columns) < 2 or not columns[0] or (known is not None and columns[-1] not in known):
            among = "" if known is None else f", tag in {known}"
            raise ValueError(f"{path}: line {number} must be 'token tag'{among}: {line!r}")
        width = width or len(columns)
        if known is None and len(columns) != width:
            raise ValueError(
                f"{path}: line {number} has {len(columns)} columns, the lines before it {width}, expected as many in "
                f"each: {line!r}"
            )
        sentence = sentences[-1]
        sentence.tokens.append(columns[0])
        sentence.tags.append(columns[-1])
        sentence.lines.append(number)
    sentences = [sentence for sentence in sentences if sentence.tokens]
    if not sentences:
        raise ValueError(f"{path}: no sentences")
    return sentences


def read_conll(path: Path, labels: list[str]) -> Dataset:
    """`read_sentences` as columns ``tokens`` and ``tags``, the latter as places in ``labels``."""
    ids = {name: label for label, name in enumerate(labels)}
    sentences = read_sentences(path, labels)
    return Dataset.from_dict(
        {"tokens": [s.tokens for s in sentences], "tags": [[ids[tag] for tag in s.tags] for s in sentences]}
    )
