"""A classification task, or a regression, from tables of one's own: named columns, labels found in the data.

With one column of labels, a row has one label, its value there, or several, if lists stand there; with several, each
column is a label, which a row has or has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.labels import Classes, LabelColumn, check_few, measurement, one_label, several_labels
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
        names, found = self._labels(tables)
        splits = {}
        for split, parts in tables.items():
            rows = [{**table.texts(*texts), "label": own} for table, own in zip(parts, found[split], strict=True)]
            splits[split] = concatenate_datasets(list(map(Dataset.from_dict, rows)))
        train = splits.pop("train")
        return TaskData(train, splits, names, texts_of(train))

    def _labels(self, tables: dict[str, list[Table]]) -> tuple[list[str], dict[str, list[list]]]:
        """The names of the labels; and each row's, by split and file.

        Raises:
            ValueError: A row has no label, or another one than the training rows; or all rows are alike.
        """
        name = self.label_column[0]
        columns = {split: [table.labels(name) for table in parts] for split, parts in tables.items()}
        if len(self.label_column) == 1 and self.kind != "regression":
            classes = self._classes(columns["train"])
            id_of = classes.ids if self.kind == "multi_label" else classes.id
            return classes.names, {split: [own.read(id_of) for own in parts] for split, parts in columns.items()}
        if self.kind == "regression":
            found = {split: [own.read(measurement) for own in parts] for split, parts in columns.items()}
            checked = {split: [[number] for own in parts for number in own] for split, parts in found.items()}
        else:
            found = {split: [own.holds(self.label_column) for own in parts] for split, parts in tables.items()}
            checked = {"train": [row for own in found["train"] for row in own]}
        for split, rows in checked.items():
            for name, values in zip(self.label_column, zip(*rows, strict=True), strict=True):
                if len(set(values)) == 1:
                    what = "different numbers" if self.kind == "regression" else "rows of both kinds"
                    raise ValueError(
                        f"{files_of(columns[split])}: {name!r} is {values[0]} in every row, expected {what}"
                    )
        return self.label_column, found

    def _classes(self, train: list[LabelColumn]) -> Classes:
        """The classes of one column."""
        several = self.kind == "multi_label"
        rows = [(row, own.typed) for own in train for row in own.read(several_labels if several else one_label)]
        classes = found_classes(train, [(value, typed) for row, typed in rows for value in (row if several else [row])])
        fraction = next((number for number in classes.numbers if isinstance(number, float)), None)
        try:
            if several and not classes.names:
                raise ValueError("is an empty list in every row")
            if several and fraction:
                raise ValueError(f"holds lists of numbers such as {fraction}, expected lists of labels")
            if not several and len(classes.names) < 2:
                raise ValueError(f"is {classes.names[0]!r} in every row, expected different labels")
            if self.problem_type is None:
                check_few(classes, len(rows))
        except ValueError as error:
            raise ValueError(f"{files_of(train)}: {train[0].name!r} {error}") from None
        return classes


def split_files(task, data_dir: str | None) -> dict[str, list[Path]]:
    """The files of each split."""
    names = {"train": task.train_file, "validation": [task.validation_file]}
    names |= {"test": [task.test_file]} if task.test_file else {}
    return {split: [Path(data_dir or ".", file) for file in files] for split, files in names.items()}


def files_of(columns: list[LabelColumn]) -> str:
    """Their names, for messages."""
    return ", ".join(column.file for column in columns)


def found_classes(columns: list[LabelColumn], found: list) -> Classes:
    """`Classes` of what was found in these columns; its ValueError with the files and the column."""
    try:
        return Classes(found)
    except ValueError as error:
        raise ValueError(f"{files_of(columns)}: {columns[0].name!r} {error}") from None
