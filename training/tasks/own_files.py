"""A classification task, or a regression, from tables of one's own: named columns, labels found in the data.

With one column of labels, a row has one label, its value there, or several, if lists stand there; with several, each
column is a label, which a row has or has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.labels import Classes, LabelColumn, Value, check_few
from training.tasks.readers import Table, read_table

#: Hugging Face's ``problem_type`` -> the kind of task.
PROBLEMS = {
    "single_label_classification": "sequence",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


@dataclass(frozen=True)
class OwnFiles(Task):
    """Rows of TSV, CSV, JSON lines or Parquet files; a row is one text, or a pair of them.

    Attributes:
        train_file: One file or several, which are read one after the other.
        validation_file: What is scored during and after training.
        test_file: What is scored after training, too.
        text_column, text_pair_column: The columns of the texts, in all files; the second is None where a row is one
            text.
        label_column: The column of the labels in all files, or several.
        problem_type: One of `PROBLEMS`. If None, several columns are several labels, and one has classes: what looks
            like measurements is then refused.
    """

    train_file: list[str]
    validation_file: str
    test_file: str | None
    text_column: str
    text_pair_column: str | None
    label_column: list[str]
    problem_type: str | None

    name = "own_files"
    recipe = "sst2"

    def __post_init__(self):
        several = len(self.label_column) > 1
        if several and self.problem_type not in (None, "multi_label_classification"):
            raise ValueError(
                f"--label_column names {len(self.label_column)} columns, each of which is a label of its own, which "
                f"--problem_type {self.problem_type} is not for; give one column, or leave --problem_type out"
            )

    @property
    def kind(self) -> str:
        if self.problem_type is not None:
            return PROBLEMS[self.problem_type]
        return "sequence" if len(self.label_column) == 1 else "multi_label"

    @property
    def metric(self) -> str:
        return "r2" if self.kind == "regression" else "accuracy"

    def load(self, data_dir: str | None) -> TaskData:
        texts = [self.text_column] if self.text_pair_column is None else [self.text_column, self.text_pair_column]
        files = split_files(self, data_dir).items()
        tables = {split: [read_table(path, [*texts, *self.label_column]) for path in paths] for split, paths in files}
        columns = {split: [table.labels(self.label_column[0]) for table in parts] for split, parts in tables.items()}
        if len(self.label_column) > 1:
            names, found = self.label_column, yes_or_no(tables, self.label_column)
        elif self.kind == "regression":
            names, found = self.label_column, numbers(columns)
        else:
            names, found = classes_of(columns, self.kind == "multi_label", sure=self.problem_type is not None)
        splits = {}
        for split, parts in tables.items():
            rows = [{**table.texts(*texts), "label": own} for table, own in zip(parts, found[split], strict=True)]
            splits[split] = concatenate_datasets(list(map(Dataset.from_dict, rows)))
        train = splits.pop("train")
        return TaskData(train, splits, names, texts_of(train))


def split_files(task, data_dir: str | None) -> dict[str, list[Path]]:
    """The files of each split."""
    names = {"train": task.train_file, "validation": [task.validation_file]}
    names |= {"test": [task.test_file]} if task.test_file else {}
    return {split: [Path(data_dir or ".", file) for file in files] for split, files in names.items()}


def classes_of(
    columns: dict[str, list[LabelColumn]], several: bool, sure: bool
) -> tuple[list[str], dict[str, list[list]]]:
    """The names of the classes; and by split and file, each row's place among them or, of ``several`` labels, a 0 or 1
    for each of them: the order of a list and what it says twice mean nothing.

    Raises:
        ValueError: A row has no label, or no list of labels, or another label than the training rows; these are all
            alike; or, unless one is ``sure``, they are no classes.
    """
    read = LabelColumn.lists if several else LabelColumn.scalars
    values = {split: list(map(read, parts)) for split, parts in columns.items()}
    name, where = columns["train"][0].name, files_of(columns["train"])
    rows = [(row, c.typed) for c, own in zip(columns["train"], values["train"], strict=True) for row in own]
    found = [(value, typed) for row, typed in rows for value in (row if several else [row])]
    classes = found_classes(where, name, found)
    if several and not classes.names:
        raise ValueError(f"{where}: {name!r} is an empty list in every row")
    fraction = next((number for number in classes.measured if isinstance(number, float)), None)
    if several and fraction:
        raise ValueError(f"{where}: {name!r} holds lists of numbers such as {fraction}, expected lists of labels")
    if not several and len(classes.names) < 2:
        raise ValueError(f"{where}: every row has the {name} {classes.names[0]!r}")
    if not several and not sure:
        check_few(classes, len(rows), where, name)

    def ids(column: LabelColumn, own: list) -> list:
        if not several:
            return classes.ids(column, own)
        rows = zip(column.places, own, strict=True)
        holds = [set(classes.ids(column, row, [place] * len(row))) for place, row in rows]
        return [[int(label in row) for label in range(len(classes.names))] for row in holds]

    return classes.names, {split: list(map(ids, parts, values[split])) for split, parts in columns.items()}


def numbers(columns: dict[str, list[LabelColumn]]) -> dict[str, list[list[float]]]:
    """A number for each row, by split and file.

    Raises:
        ValueError: A row has none; or all rows of a split have the same.
    """
    values = {split: list(map(LabelColumn.numbers, parts)) for split, parts in columns.items()}
    for split, parts in values.items():
        if len({value for own in parts for value in own}) == 1:
            where, name = files_of(columns[split]), columns[split][0].name
            raise ValueError(f"{where}: {name!r} is {parts[0][0]} in every row, expected different numbers")
    return values


def files_of(columns: list[LabelColumn]) -> str:
    """Their names, for messages."""
    return ", ".join(column.file for column in columns)


def yes_or_no(tables: dict[str, list[Table]], names: list[str]) -> dict[str, list]:
    """For each row a 0 or 1 for each of several columns.

    Raises:
        ValueError: such a column has anything else, or only one of them in all training rows.
    """
    found = {
        split: [list(map(list, zip(*(table.labels(name).holds() for name in names), strict=True))) for table in parts]
        for split, parts in tables.items()
    }
    train = [row for own in found["train"] for row in own]
    for name, column in zip(names, zip(*train, strict=True), strict=True):
        if len(set(column)) == 1:
            files = ", ".join(str(table.path) for table in tables["train"])
            raise ValueError(f"{files}: {name!r} is {column[0]} in every row, expected rows of both kinds")
    return found


def found_classes(where: str, name: str, found: list[tuple[Value, bool]]) -> Classes:
    """`Classes` of what was found; its ValueError with the files and the column."""
    try:
        return Classes(found)
    except ValueError as error:
        raise ValueError(f"{where}: {name!r} {error}") from None
