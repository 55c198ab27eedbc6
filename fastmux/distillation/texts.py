"""Unlabelled text: rows out of files, and rows into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from fastmux.lines import read_lines

#: A row: a text, or the two texts of a pair.
Row = str | tuple[str, str]


def read_texts(files: Sequence[str | PathLike]) -> list[Row]:
    """The rows of text files, one a line; a line with a tab is a pair of texts. Blank lines are passed over.

    Raises:
        ValueError: a file is not there, is empty, binary or not UTF-8, or some of its lines are pairs and others are
            not; the message names file and line.
    """
    rows: list[Row] = []
    first: tuple[Path, int] | None = None
    for path in map(Path, files):
        before = len(rows)
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            parts = line.split("\t")
            if len(parts) > 2:
                raise ValueError(f"{path}: line {number} has {len(parts) - 1} tabs, expected a text or a pair with one")
            if rows and len(parts) != (2 if isinstance(rows[0], tuple) else 1):
                kinds = ("a pair of texts", "one text") if len(parts) == 2 else ("one text", "a pair of texts")
                raise ValueError(
                    f"{path}: line {number} is {kinds[0]}, but line {first[1]} of {first[0]} is {kinds[1]}"
                )
            first = first or (path, number)
            rows.append((parts[0], parts[1]) if len(parts) == 2 else parts[0])
        if len(rows) == before:
            raise ValueError(f"{path} has no text in it")
    return rows


def tokenize(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Rows as token ids, cut at ``max_length``; a column ``length`` says how many each has."""
    rows = list(rows)
    pairs = bool(rows) and isinstance(rows[0], tuple)
    columns = {"text": [row[0] if pairs else row for row in rows]}
    if pairs:
        columns["pair"] = [row[1] for row in rows]

    def encode(batch: dict) -> dict:
        encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_length)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    return Dataset.from_dict(columns).map(encode, batched=True, remove_columns=list(columns), desc="tokens")
