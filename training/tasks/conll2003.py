"""CoNLL-2003 English named entities."""

from __future__ import annotations

from datasets import Dataset, load_dataset

from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.conll import read_conll
from fastmux.training.tasks.labels import Classes
from fastmux.training.tasks.readers import Table, find_files


class Conll2003Task(Task):
    """Scored by entity F1 on the development and the test set."""

    name = "conll2003"
    kind = "token"
    metric = "f1"
    recipe = "conll2003"
    files = {"train": ("train.txt",), "validation": ("valid.txt",), "test": ("test.txt",)}
    #: In the order of the Hugging Face hub's label ids.
    labels = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]

    def load(self, data_dir: str | None) -> TaskData:
        if data_dir is None:
            # The repository's own files are behind a loading script, which `datasets` no longer runs; the hub
            # keeps this converted copy of the same rows.
            splits = load_dataset("eriktks/conll2003", revision="refs/convert/parquet", split=list(self.files))
            splits = [split.rename_column("ner_tags", "tags").select_columns(["tokens", "tags"]) for split in splits]
        else:
            layout = "`token tag` lines, IOB2 tags, a blank line between sentences"
            paths = find_files(self.name, data_dir, self.files, layout)
            splits = [rows_of(read_conll(paths[split]), Classes.named(self.labels)) for split in self.files]
        train, validation, test = splits
        return TaskData(train, {"validation": validation, "test": test}, self.labels, texts_of(train))


def rows_of(table: Table, classes: Classes) -> Dataset:
    """The rows of a table with the columns ``tokens`` and ``tags``, the latter as ids."""
    tags = table.read("tags", lambda tags, typed: [classes.id(tag) for tag in tags])
    return Dataset.from_dict({"tokens": table.columns["tokens"], "tags": tags})
