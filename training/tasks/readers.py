r"""Files of labelled text: tables (TSV, CSV, JSON lines, Parquet) by the names of their columns, and CoNLL columns.

What is a line, `fastmux.lines` says for all of them. Quotes mean something in CSV alone: in TSV, as GLUE has it, a
field is whatever stands between two tabs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from datasets import Dataset

from fastmux.lines import read_lines

#: Endings of the tables that can be read; all but Parquet may have .gz after it.
FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")


def find_files(task: str, data_dir: str, files: dict[str, tuple[str, ...]], layout: str) -> dict[str, Path]:
    """Paths of a task's files by split, in ``data_dir`` or in its subfolder of the task's name.

    Args:
        files: the names that a split's file may have, itself or with .gz after it.

    Raises:
        ValueError: names the missing files, the folders looked into and the layout expected.
    """
    folders = [Path(data_dir), Path(data_dir) / task]
    found: list[dict[str, Path]] = [{}, {}]
    for folder, paths in zip(folders, found, strict=True):
        for split, names in files.items():
            candidates = (folder / f"{name}{packed}" for name in names for packed in ("", ".gz"))
            if path := next(filter(Path.is_file, candidates), None):
                paths[split] = path
    best = max(found, key=len)
    if len(best) < len(files):
        folder = folders[found.index(best)]
        missing = ", ".join(names[0] for split, names in files.items() if split not in best)
        raise ValueError(
            f"data_dir={data_dir!r}: {missing} missing in {folder}; {task} expects "
            f"{', '.join(names[0] for names in files.values())} there or in its subfolder {task}/, UTF-8, {layout}"
        )
    return best


@dataclass(frozen=True)
class Table:
    """Some columns of a file.

    Attributes:
        path: the file.
        columns: values by name of the column, as the file has them: text, or what JSON and Parquet have types for.
        places: of each row, for messages: "line 3", or "row 3" where a file has no lines.
    """

    path: Path
    columns: dict[str, list]
    places: list[str]

    def text(self, column: str) -> list[str]:
        """A column that must be text.

        Raises:
            ValueError: names the first row where it is not.
        """
        for place, value in zip(self.places, self.columns[column], strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{self.path}: {place}: {column!r} must be text, got {value!r}")
        return self.columns[column]

    def labels(self, column: str) -> list[str]:
        """A column of labels, numbers as they are written; spaces around a label say nothing.

        Raises:
            ValueError: names the first row that has none.
        """
        labels = ["" if value is None else str(value).strip(" ") for value in self.columns[column]]
        if "" in labels:
            raise ValueError(f"{self.path}: {self.places[labels.index('')]}: {column!r} has no label")
        return labels

    def numbers(self, column: str) -> list[float]:
        """A column that must be numbers.

        Raises:
            ValueError: names the first row where it is not one, or is not finite.
        """
        found = []
        for place, value in zip(self.places, self.columns[column], strict=True):
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                found.append(math.nan)
            if not math.isfinite(found[-1]):
                raise ValueError(f"{self.path}: {place}: {column!r} must be a number, got {value!r}")
        return found

    def rows(self, *texts: str, label: str, known: list[str]) -> Dataset:
        """Columns ``text`` and, if two are named, ``text_pair``; and ``label``, as places in ``known``."""
        columns = {name: self.text(column) for name, column in zip(("text", "text_pair"), texts, strict=False)}
        return Dataset.from_dict({**columns, "label": self.label_ids(label, known)})

    def multi_label_rows(self, *texts: str, labels: list[str]) -> Dataset:
        """The same with several columns of labels: ``label`` has a 0 or 1 for each.

        Raises:
            ValueError: names the first row that has something else in one of them.
        """
        columns = {name: self.text(column) for name, column in zip(("text", "text_pair"), texts, strict=False)}
        return Dataset.from_dict({**columns, "label": list(map(list, zip(*map(self._holds, labels), strict=True)))})

    def _holds(self, column: str) -> list[int]:
        said = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
        values = self.labels(column)
        for place, value in zip(self.places, values, strict=True):
            if value.lower() not in said:
                raise ValueError(f"{self.path}: {place}: {column!r} must be 0 or 1, got {value!r}")
        return [said[value.lower()] for value in values]

    def label_ids(self, column: str, known: list[str]) -> list[int]:
        """A column of labels as their places in ``known``.

        Raises:
            ValueError: names the first row that has another.
        """
        ids = {label: index for index, label in enumerate(known)}
        labels = self.labels(column)
        for place, label in zip(self.places, labels, strict=True):
            if label not in ids:
                raise ValueError(f"{self.path}: {place}: {column!r} must be one of {known}, got {label!r}")
        return [ids[label] for label in labels]


def read_table(path: Path, columns: Iterable[str]) -> Table:
    """Reads the named columns of a TSV, CSV, JSON lines or Parquet file; the first two begin with a line of names.

    Raises:
        ValueError: another ending, no rows, a column that is not there (the message lists those that are), or a
            malformed row (the message names its line and what was expected).
    """
    path = Path(path)
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in FORMATS or (ending == ".parquet" and path.suffix == ".gz"):
        raise ValueError(f"{path}: the name of a table must end in one of {', '.join(FORMATS)} (or .gz after it)")
    read = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[ending]
    wanted = list(dict.fromkeys(columns))
    places, rows = [], []
    for place, row in read(path):
        missing = [name for name in wanted if name not in row]
        if missing:
            here = "" if ending in (".tsv", ".csv", ".parquet") else f"{place}: "
            raise ValueError(f"{path}: {here}no column {', '.join(map(repr, missing))}; there are {list(row)}")
        places.append(place)
        rows.append([row[name] for name in wanted])
    if not rows:
        raise ValueError(f"{path}: no rows")
    values = zip(*rows, strict=True)
    return Table(path, {name: list(column) for name, column in zip(wanted, values, strict=True)}, places)


def _read_tsv(path: Path) -> Iterator[tuple[str, dict]]:
    rows = ((number, line.split("\t")) for number, line in enumerate(read_lines(path), start=1) if line)
    return _named(path, rows, "separated by tabs")


def _read_csv(path: Path) -> Iterator[tuple[str, dict]]:
    reader = csv.reader(read_lines(path, keepends=True), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        first = 1
        try:
            for row in reader:
                if row:
                    yield first, row
                first = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}: the row at line {first} is not CSV: {error}") from error

    return _named(path, rows(), "separated by commas")


def _named(path: Path, rows: Iterator[tuple[int, list[str]]], how: str) -> Iterator[tuple[str, dict]]:
    """Rows under the first one, which has the names."""
    _, names = next(rows, (0, []))
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: the first line names a column twice: {names}")
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{path}: line {number} must have {len(names)} columns {how}, {names}; got {row}")
        yield f"line {number}", dict(zip(names, row, strict=True))


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip(" \t"):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} must be a JSON object: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} must be a JSON object, got {line!r}")
            yield f"line {number}", row


def _read_parquet(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def read_conll(path: Path, labels: list[str]) -> Dataset:
    """Reads lines of columns, the token first and its tag last, with blank lines between sentences.

    A line that has a tab is split at tabs (tokens may have spaces then), any other at single spaces. Lines that begin
    with -DOCSTART- are skipped.

    Returns:
        Columns ``tokens`` and ``tags``, the latter as places in ``labels``.

    Raises:
        ValueError: names the first line that has another shape or an unknown tag.
    """
    ids = {name: label for label, name in enumerate(labels)}
    tokens: list[list[str]] = [[]]
    tags: list[list[int]] = [[]]
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.rstrip(" \t").split("\t" if "\t" in line.rstrip(" \t") else " ")
        if columns == [""]:
            tokens.append([])
            tags.append([])
        elif columns[0] != "-DOCSTART-":
            if len(columns) < 2 or not columns[0] or columns[-1] not in ids:
                raise ValueError(f"{path}: line {number} must be 'token tag', tag in {labels}: {line!r}")
            tokens[-1].append(columns[0])
            tags[-1].append(ids[columns[-1]])
    kept = [index for index, sentence in enumerate(tokens) if sentence]
    if not kept:
        raise ValueError(f"{path}: no sentences")
    return Dataset.from_dict({"tokens": [tokens[i] for i in kept], "tags": [tags[i] for i in kept]})
