"""Files of a task: where they are, and named columns of tables as `fastmux.tables` reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow
from datasets import ClassLabel, Dataset, Features

from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.tables.opening import Source, open_source
from fastmux.tables.values import check_columns, values_of
from fastmux.training.tasks.labels import Classes, yes_or_no

#: The class id with which `datasets` says that a row has none.
NO_CLASS = -1

T = TypeVar("T")


def find_files(task: str, data_dir: str, files: dict[str, tuple[str, ...]], layout: str) -> dict[str, Path]:
    """Paths of a task's files by split, in ``data_dir`` or in its subfolder of the task's name.

    Args:
        files: The names that a split's file may have; .gz may follow them.

    Raises:
        ValueError: Files are missing. The message names them, the folder looked into and the layout expected.
    """
    found: dict[Path, dict[str, Path]] = {Path(data_dir): {}, Path(data_dir) / task: {}}
    for folder, paths in found.items():
        for split, names in files.items():
            candidates = (folder / f"{name}{packed}" for name in names for packed in ("", ".gz"))
            if path := next(filter(Path.is_file, candidates), None):
                paths[split] = path
    folder, best = max(found.items(), key=lambda entry: len(entry[1]))
    if missing := [names[0] for split, names in files.items() if split not in best]:
        raise ValueError(
            f"data_dir={data_dir!r}: {', '.join(missing)} missing in {folder}; {task} expects "
            f"{', '.join(names[0] for names in files.values())} there or in its subfolder {task}/, UTF-8, {layout}"
        )
    return best


@dataclass(frozen=True)
class Table:
    """Some columns of one file, or of several with the same columns.

    Attributes:
        files: The names of the files, for messages.
        columns: The values by the name of the column, as the files have them: text, or what JSON and Parquet know.
        places: Where each row is, for messages: "train.csv: line 3", or "row 3" where a file has no lines.
        typed: Whether the format of each row's file has types.
    """

    files: str
    columns: dict[str, list]
    places: list[str]
    typed: list[bool]

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """The rows of all tables."""
        names = tables[0].columns
        return cls(
            ", ".join(table.files for table in tables),
            {name: [value for table in tables for value in table.columns[name]] for name in names},
            [place for table in tables for place in table.places],
            [typed for table in tables for typed in table.typed],
        )

    def read(self, column: str, convert: Callable[[object, bool], T]) -> list[T]:
        """Calls a function of `fastmux.training.tasks.labels`, or one like them, on each value of a column.

        Raises:
            ValueError: The function raises one. The message then begins with the file, the row and the column.
        """
        found = []
        for place, value, typed in zip(self.places, self.columns[column], self.typed, strict=True):
            try:
                found.append(convert(value, typed))
            except ValueError as error:
                raise ValueError(f"{place}: {column!r} {error}") from None
        return found

    def of_all(self, column: str, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function that is about a whole column. Its ValueError then begins with the files and the column."""
        try:
            return function(*arguments)
        except ValueError as error:
            raise ValueError(f"{self.files}: {column!r} {error}") from None

    def texts(self, *texts: str) -> dict[str, list[str]]:
        """Columns ``text`` and, if two are named, ``text_pair``. Raises ValueError for a row that is not text."""
        return {name: self.read(own, _text) for name, own in zip(("text", "text_pair"), texts, strict=False)}

    def rows(self, *texts: str, label: str, known: list[str]) -> Dataset:
        """`texts` and a column ``label`` with each label's place in ``known``."""
        return Dataset.from_dict({**self.texts(*texts), "label": self.read(label, Classes.named(known).id)})

    def holds(self, labels: Sequence[str]) -> list[list[int]]:
        """A 0 or 1 for each of these columns, of each row. Raises ValueError for a row that has something else."""
        return list(map(list, zip(*(self.read(label, yes_or_no) for label in labels), strict=True)))


def _text(value: object, typed: bool) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, got {value!r}")
    return value


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Reads the named columns of a TSV, CSV, JSON lines or Parquet file.

    Raises:
        ValueError: The file is missing or is no table; it has no rows, lacks a column (the message lists those that
            are there), or has a row that cannot be read (the message names it).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    source = open_source(path)
    if source.kind == "text":
        raise ValueError(f"{path}: rows need labels, expected a name that ends in .tsv, .csv, .jsonl or .parquet")
    wanted = list(dict.fromkeys(columns))
    check_columns(source, wanted)
    places, rows = [], []
    for number, row in values_of(source, wanted):
        if str(row) != "empty":
            if isinstance(row, ValueError):
                raise ValueError(f"{path}: {source.unit} {number}: {row}")
            places.append(f"{path}: {source.unit} {number}")
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows")
    named = dict(zip(wanted, map(list, zip(*rows, strict=True)), strict=True))
    table = Table(str(path), named, places, [source.kind in ("jsonl", "table")] * len(rows))
    if source.kind == "table":
        for name in wanted:
            table.columns[name] = _as_written(table, name, source)
    return table


def _as_written(table: Table, name: str, source: Source) -> list:
    """Values of a typed column: ids of classes by their names, as `datasets` stores them beside the column; narrow
    floats as in decimals, 0.1 and not 0.10000000149."""
    field, values = source.schema.field(name), table.columns[name]
    if field.type in (pyarrow.float16(), pyarrow.float32()):
        narrow = field.type.to_pandas_dtype()
        return [None if value is None else float(str(narrow(value))) for value in values]
    if b"huggingface" not in (source.schema.metadata or {}):
        return values
    feature = Features.from_arrow_schema(pyarrow.schema([field], source.schema.metadata))[name]
    while hasattr(feature, "feature"):  # a list
        feature = feature.feature
    if not isinstance(feature, ClassLabel):
        return values

    def name_of(value: object, typed: bool) -> object:
        if isinstance(value, list):
            return [name_of(entry, typed) for entry in value]
        if value is None or value in (NO_CLASS, IGNORE_INDEX):
            return None if value == NO_CLASS else value
        if value >= feature.num_classes:
            raise ValueError(f"is the class {value}, expected one of 0 to {feature.num_classes - 1}")
        return feature.names[value]

    return table.read(name, name_of)
