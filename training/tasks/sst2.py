"""GLUE SST-2: is a film review's phrase positive?"""

from __future__ import annotations

from datasets import load_dataset

from training.tasks.base import Task, TaskData
from training.tasks.readers import find_files, read_table


class Sst2Task(Task):
    """Scored on the development set, which has labels."""

    name = "sst2"
    recipe = "sst2"
    files = {"train": ("train.tsv",), "validation": ("dev.tsv",)}
    labels = ["negative", "positive"]

    def load(self, data_dir: str | None) -> TaskData:
        if data_dir is None:
            splits = load_dataset("stanfordnlp/sst2", split=list(self.files))
            splits = [split.rename_column("sentence", "text").select_columns(["text", "label"]) for split in splits]
        else:
            paths = find_files(self.name, data_dir, self.files, "sentence<TAB>label after one header line")
            splits = [
                read_table(paths[split], ["sentence", "label"]).rows("sentence", label="label", known=["0", "1"])
                for split in self.files
            ]
        # GLUE's sentences end in a space.
        train, validation = (split.map(lambda row: {"text": row["text"].strip(" ")}) for split in splits)
        return TaskData(train, {"validation": validation}, self.labels, list(train["text"]))
