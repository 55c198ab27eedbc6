"""A classification task from tables of one's own: named columns, labels found in the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import concatenate_datasets

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.readers import read_table


@dataclass(frozen=True)
class OwnFiles(Task):
    """Rows of TSV, CSV, JSON lines or Parquet files; a row is one text, or a pair of them.

    Attributes:
        train_file: one or several, which are joined.
        validation_file: what is scored during and after training.
        test_file: what is scored after training, too.
        text_column, text_pair_column, label_column: of all files; None for the second where a row is one text.
    """

    train_file: list[str]
    validation_file: str
    test_file: str | None
    text_column: str
    text_pair_column: str | None
    label_column: str

    name = "own_files"
    recipe = "sst2"

    def load(self, data_dir: str | None) -> TaskData:
        texts = [self.text_column] if self.text_pair_column is None else [self.text_column, self.text_pair_column]
        names = {"train": self.train_file, "validation": [self.validation_file]}
        names |= {"test": [self.test_file]} if self.test_file else {}
        tables = {
            split: [read_table(Path(data_dir or ".", file), [*texts, self.label_column]) for file in files]
            for split, files in names.items()
        }
        found = {label for table in tables["train"] for label in table.labels(self.label_column)}
        numbers = all(label.removeprefix("-").isdecimal() for label in found)
        labels = sorted(found, key=lambda label: (int(label) if numbers else 0, label))
        if len(labels) < 2:
            raise ValueError(f"{', '.join(self.train_file)}: every row has the {self.label_column} {labels[0]!r}")
        splits = {
            split: concatenate_datasets([table.rows(*texts, label=self.label_column, known=labels) for table in parts])
            for split, parts in tables.items()
        }
        train = splits.pop("train")
        return TaskData(train, splits, labels, texts_of(train))
