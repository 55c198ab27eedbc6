"""A classification task from tables of one's own: named columns, labels found in the data.

With one column of labels, a row has one label, its value there; with several, each column is a label, which a row has
or has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import concatenate_datasets

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.readers import Table, read_table


@dataclass(frozen=True)
class OwnFiles(Task):
    """Rows of TSV, CSV, JSON lines or Parquet files; a row is one text, or a pair of them.

    Attributes:
        train_file: one or several, which are joined.
        validation_file: what is scored during and after training.
        test_file: what is scored after training, too.
        text_column, text_pair_column: of all files; None for the second where a row is one text.
        label_column: of all files, one or several.
    """

    train_file: list[str]
    validation_file: str
    test_file: str | None
    text_column: str
    text_pair_column: str | None
    label_column: list[str]

    name = "own_files"
    recipe = "sst2"

    @property
    def kind(self) -> str:
        return "sequence" if len(self.label_column) == 1 else "multi_label"

    def load(self, data_dir: str | None) -> TaskData:
        texts = [self.text_column] if self.text_pair_column is None else [self.text_column, self.text_pair_column]
        names = {"train": self.train_file, "validation": [self.validation_file]}
        names |= {"test": [self.test_file]} if self.test_file else {}
        tables = {
            split: [read_table(Path(data_dir or ".", file), [*texts, *self.label_column]) for file in files]
            for split, files in names.items()
        }
        if self.kind == "multi_label":
            return multi_label_data(tables, texts, self.label_column)
        (column,) = self.label_column
        found = {label for table in tables["train"] for label in table.labels(column)}
        numbers = all(label.removeprefix("-").isdecimal() for label in found)
        labels = sorted(found, key=lambda label: (int(label) if numbers else 0, label))
        if len(labels) < 2:
            raise ValueError(f"{', '.join(self.train_file)}: every row has the {column} {labels[0]!r}")
        splits = {
            split: concatenate_datasets([table.rows(*texts, label=column, known=labels) for table in parts])
            for split, parts in tables.items()
        }
        train = splits.pop("train")
        return TaskData(train, splits, labels, texts_of(train))


def multi_label_data(tables: dict[str, list[Table]], texts: list[str], labels: list[str]) -> TaskData:
    """What tables hold, by split, whose columns ``labels`` say of each label whether a row has it.

    Raises:
        ValueError: such a column has anything but 0 and 1, or only one of them in all training rows.
    """
    splits = {
        split: concatenate_datasets([table.multi_label_rows(*texts, labels=labels) for table in parts])
        for split, parts in tables.items()
    }
    train = splits.pop("train")
    for label, column in zip(labels, zip(*train["label"], strict=True), strict=True):
        if len(set(column)) == 1:
            files = ", ".join(str(table.path) for table in tables["train"])
            raise ValueError(f"{files}: {label!r} is {column[0]} in every row, expected rows of both kinds")
    return TaskData(train, splits, labels, texts_of(train))
