r"""Tables of labelled text, TSV, CSV, JSON lines or Parquet, by the names of their columns.

What is a line, `fastmux.lines` says for all of them. Quotes mean something in CSV alone: in TSV, as GLUE has it, a
field is whatever stands between two tabs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from datasets import Dataset

from fastmux.lines import read_lines
from fastmux.modules.retrieval import IGNORE_INDEX
from training.tasks.labels import Classes, LabelColumn

#: The class id with which `datasets` says that a row has none.
NO_CLASS = -1
#: Endings of the tables that can be read; all but Parquet may have .gz after it.
FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")


def find_files(task: str, data_dir: str, files: dict[str, tuple[str, ...]], layout: str) -> dict[str, Path]:
    """Paths of a task's files by split, in ``data_dir`` or in its subfolder of the task's name.

    Args:
        files: The names that a split's file may have; .gz may follow them.

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
        path: The file.
        columns: Values by the name of the column, as the file has them: text, or what JSON and Parquet have types for.
        places: Where each row is, for messages: "line 3", or "row 3" where a file has no lines.
        typed: The format has types.
    """

    path: Path
    columns: dict[str, list]
    places: list[str]
    typed: bool

    def text(self, column: str) -> list[str]:
        """A column that must be text.

        Raises:
            ValueError: names the first row where it is not.
        """
        for place, value in zip(self.places, self.columns[column], strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{self.path}: {place}: {column!r} must be text, got {value!r}")
        return self.columns[column]

    def labels(self, column: str) -> LabelColumn:
        """A column of labels, of whichever kind."""
        return LabelColumn(str(self.path), column, self.columns[column], self.places, self.typed)

    def texts(self, *texts: str) -> dict[str, list[str]]:
        """Columns ``text`` and, if two are named, ``text_pair``."""
        return {name: self.text(column) for name, column in zip(("text", "text_pair"), texts, strict=False)}

    def rows(self, *texts: str, label: str, known: list[str]) -> Dataset:
        """`texts`; and ``label``, as places in ``known``."""
        column = self.labels(label)
        ids = Classes.named(known).ids(column, column.scalars())
        return Dataset.from_dict({**self.texts(*texts), "label": ids})

    def multi_label_rows(self, *texts: str, labels: list[str]) -> Dataset:
        """The same with several columns of labels: ``label`` has a 0 or 1 for each.

        Raises:
            ValueError: names the first row that has something else in one of them.
        """
        holds = (self.labels(label).holds() for label in labels)
        return Dataset.from_dict({**self.texts(*texts), "label": list(map(list, zip(*holds, strict=True)))})


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
    wanted = list(dict.fromkeys(columns))
    if ending == ".parquet":
        return _read_parquet(path, wanted)
    read = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}[ending]
    places, rows = [], []
    for place, row in read(path):
        _check_columns(f"{path}: {place}" if ending == ".jsonl" else str(path), wanted, row)
        places.append(place)
        rows.append([row[name] for name in wanted])
    if not rows:
        raise ValueError(f"{path}: no rows")
    values = zip(*rows, strict=True)
    named = {name: list(column) for name, column in zip(wanted, values, strict=True)}
    return Table(path, named, places, typed=ending == ".jsonl")


def _check_columns(where: str, wanted: list[str], there: Iterable[str]) -> None:
    there = list(there)
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"{where}: no column {', '.join(map(repr, missing))}; there are {there}")


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
                row = json.loads(line, object_pairs_hook=_named_once)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} must be a JSON object: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} must be a JSON object, got {line!r}")
            yield f"line {number}", row


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _read_parquet(path: Path, wanted: list[str]) -> Table:
    """Ids of classes become their names where the file has them, as `datasets` writes them."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    _check_columns(str(path), wanted, names)
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise ValueError(f"{path}: there are two columns {twice[0]!r}")
    stored = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features") or {}
    columns, name = {}, ""
    try:
        table = file.read(columns=wanted)
        for name in wanted:
            values = _plain(table.column(name))
            classes = _class_names(features.get(name))
            places = enumerate(values, start=1)
            columns[name] = values if classes is None else [_named_ids(path, *at, name, classes) for at in places]
    except (OSError, pyarrow.ArrowException, OverflowError) as error:
        raise ValueError(f"{path}: {name or wanted!r} cannot be read: {error}") from error
    if not table.num_rows:
        raise ValueError(f"{path}: no rows")
    return Table(path, columns, [f"row {number}" for number in range(1, table.num_rows + 1)], typed=True)


def _plain(column: pyarrow.ChunkedArray) -> list:
    """The values as Python has them; narrow floats as they are written in decimals, 0.1 and not 0.10000000149."""
    values = column.to_pylist()
    if column.type in (pyarrow.float16(), pyarrow.float32()):
        narrow = column.type.to_pandas_dtype()
        return [None if value is None else float(str(narrow(value))) for value in values]
    return values


def _class_names(feature: object) -> list[str] | None:
    """Of a feature of `datasets` that is a class, or a list of classes."""
    while isinstance(feature, list | dict):
        if isinstance(feature, list):
            feature = feature[0] if feature else None
        elif feature.get("_type") == "ClassLabel":
            return feature.get("names")
        else:
            feature = feature.get("feature")
    return None


def _named_ids(path: Path, number: int, value: object, column: str, names: list[str]) -> object:
    if isinstance(value, list):
        return [_named_ids(path, number, entry, column, names) for entry in value]
    if not isinstance(value, int) or value in (NO_CLASS, IGNORE_INDEX):
        return None if value == NO_CLASS else value
    if not 0 <= value < len(names):
        raise ValueError(
            f"{path}: row {number}: {column!r} is the class {value}, expected one of 0 to {len(names) - 1}"
        )
    return names[value]
