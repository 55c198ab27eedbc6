"""Unlabelled text: read rows from files, and tokenise them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from fastmux.labelling.checks import check_text
from fastmux.labelling.columns import check_text_columns, choose_names
from fastmux.tables.opening import Source, is_table, open_source
from fastmux.tables.values import values_of

#: A row: a text, or the two texts of a pair.
Row = str | tuple[str, str]


def read_texts(
    files: Sequence[str | PathLike],
    column: str | None = None,
    pair_column: str | None = None,
    input_format: str | None = None,
) -> list[Row]:
    """Read texts from files, as `fastmux.predict` does. Rows without text are skipped.

    Args:
        files: JSON lines, CSV, TSV, Parquet or text (a row a line), by the endings of their names, perhaps with .gz.
        column: The column of the text. If None, "text", "sentence" or the only column.
        pair_column: The column of the second text of a pair.
        input_format: The format of all files: "jsonl", "csv", "tsv", "text" or "parquet". If None, the ending of each
            name tells it.

    Raises:
        ValueError: A file does not exist, cannot be read, lacks the column, has no text, or has a row that cannot be
            read. The message names file and row.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = path.write_text("text,label\\nfine film,1\\n")
        >>> read_texts([path])
        ['fine film']
    """
    return [row for row, _ in _read(files, column, pair_column, (), input_format)]


def read_labelled(
    files: Sequence[str | PathLike],
    column: str | None,
    pair_column: str | None,
    label_columns: Sequence[str],
    input_format: str | None = None,
) -> tuple[list[Row], list[tuple]]:
    """Read texts as `read_texts` does, and beside each the values of these columns, as they are."""
    found = list(_read(files, column, pair_column, tuple(label_columns), input_format))
    return [row for row, _ in found], [values for _, values in found]


def _read(
    files: Sequence[str | PathLike],
    column: str | None,
    pair_column: str | None,
    label_columns: tuple[str, ...],
    input_format: str | None,
) -> Iterator[tuple[Row, tuple]]:
    if isinstance(files, (str, PathLike)):
        raise ValueError(f"files is {str(files)!r}, expected a list of files")
    for path in map(Path, files):
        if not path.is_file():
            raise ValueError(f"{path} is not there")
        empty = True
        for found in _texts(open_source(path, input_format), column, pair_column, label_columns):
            empty = False
            yield found
        if empty:
            raise ValueError(f"{path} has no text in it")


def _texts(
    source: Source, column: str | None, pair_column: str | None, label_columns: tuple[str, ...]
) -> Iterator[tuple[Row, tuple]]:
    names = choose_names(source, column, pair_column)
    for label in label_columns:
        choose_names(source, label, None)
    check_text_columns(source, names)
    for number, values in values_of(source, (*names, *label_columns)):
        try:
            if isinstance(values, ValueError):
                raise values
            values, labels = values[: len(names)], values[len(names) :]
            if any(isinstance(value, ValueError) for value in values):
                raise ValueError("is not UTF-8")
            if any(value is None or (isinstance(value, str) and not value.strip()) for value in values):
                continue
            texts = [check_text(f"column {name!r}", value) for name, value in zip(names, values, strict=True)]
        except ValueError as error:
            if str(error) == "empty":
                continue
            raise ValueError(f"{source.name}: {source.unit} {number} cannot be read: {error}") from error
        yield (texts[0] if len(texts) == 1 else (texts[0], texts[1])), tuple(labels)


def check_texts(texts: Iterable) -> list[Row]:
    """Return ``texts`` as a list of rows.

    Raises:
        ValueError: ``texts`` is a path, a table or something else; or a row is neither a text nor a pair, is empty, or
            differs in kind from the first row. The message names the row.
    """
    if isinstance(texts, (str, PathLike)):
        raise ValueError(
            f"texts is {os.fspath(texts)!r:.100}, expected a list of texts; fastmux.read_texts reads files"
        )
    if isinstance(texts, (bytes, Mapping, Dataset)) or is_table(texts) or not isinstance(texts, Iterable):
        raise ValueError(f"texts is a {type(texts).__name__}, expected a list of texts, or of pairs of texts")
    rows: list[Row] = []
    for number, row in enumerate(texts, start=1):
        pair = isinstance(row, (tuple, list))
        if pair and len(row) != 2:
            raise ValueError(f"row {number} of texts has {len(row)} parts, expected a text, or a pair of texts")
        if rows and pair != isinstance(rows[0], tuple):
            kinds = ("a pair of texts", "a text")
            raise ValueError(f"row {number} of texts is {kinds[not pair]}, but row 1 is {kinds[pair]}")
        parts = [check_text(f"row {number} of texts", part) for part in (row if pair else [row])]
        rows.append((parts[0], parts[1]) if pair else parts[0])
    return rows


def with_prompt(rows: Iterable[Row], prompt: str) -> list[Row]:
    """Texts behind the prompt of a model that embeds.

    Raises:
        ValueError: Rows are pairs of texts.
    """
    rows = list(rows)
    if any(isinstance(row, tuple) for row in rows):
        raise ValueError("texts has pairs of texts, expected texts: the model embeds each by itself")
    return [f"{prompt}{row}" for row in rows]


def tokenize(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenise rows, cut at ``max_length``. The column ``length`` has the number of tokens."""
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
