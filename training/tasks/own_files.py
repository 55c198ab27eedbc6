"""A classification task, or a regression, from tables of one's own: named columns, labels found in the data.

With one column of labels, a row has one label, its value there, or several, if lists stand there; with several, each
column is a label, which a row has or has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.labels import Classes, check_few, measurement, one_label, several_labels
from fastmux.training.tasks.readers import Table, read_table

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
        tables = {
            split: Table.joined([read_table(path, [*texts, *self.label_column]) for path in paths])
            for split, paths in split_files(self, data_dir).items()
        }
        names, found = self._labels(tables)
        splits = {
            split: Dataset.from_dict({**table.texts(*texts), "label": found[split]}) for split, table in tables.items()
        }
        train = splits.pop("train")
        return TaskData(train, splits, names, texts_of(train))

    def _labels(self, tables: dict[str, Table]) -> tuple[list[str], dict[str, list]]:
        """The names of the labels; and each row's, by split.

        Raises:
            ValueError: A row has no label, or another one than the training rows; or all rows are alike.
        """
        name, train, several = self.label_column[0], tables["train"], self.kind == "multi_label"
        if len(self.label_column) > 1:
            found = {split: table.holds(self.label_column) for split, table in tables.items()}
            for column, values in zip(self.label_column, zip(*found["train"], strict=True), strict=True):
                train.of_all(column, _check_differ, values, "rows of both kinds")
            return self.label_column, found
        if self.kind == "regression":
            found = {split: table.read(name, measurement) for split, table in tables.items()}
            for split, table in tables.items():
                table.of_all(name, _check_differ, found[split], "different numbers")
            return self.label_column, found
        rows = train.read(name, several_labels if several else one_label)
        classes = train.of_all(name, self._classes, rows if several else [[row] for row in rows], train.typed)
        id_of = classes.ids if several else classes.id
        return classes.names, {split: table.read(name, id_of) for split, table in tables.items()}

    def _classes(self, rows: list[list], typed: list[bool]) -> Classes:
        """The classes among the labels of each row."""
        classes = Classes((value, known) for row, known in zip(rows, typed, strict=True) for value in row)
        if self.kind == "multi_label":
            fraction = next((number for number in classes.numbers if isinstance(number, float)), None)
            if not classes.names:
                raise ValueError("is an empty list in every row")
            if fraction is not None:
                raise ValueError(f"holds lists of numbers such as {fraction}, expected lists of labels")
            return classes
        _check_differ(classes.names, "different labels")
        if self.problem_type is None:
            check_few(classes, len(rows))
        return classes


def _check_differ(values: Sequence, expected: str) -> None:
    if len(set(values)) == 1:
        raise ValueError(f"is {values[0]!r} in every row, expected {expected}")


def split_files(task, data_dir: str | None) -> dict[str, list[Path]]:
    """The files of each split."""
    names = {"train": task.train_file, "validation": [task.validation_file]}
    names |= {"test": [task.test_file]} if task.test_file else {}
    return {split: [Path(data_dir or ".", file) for file in files] for split, files in names.items()}
