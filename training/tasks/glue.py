"""GLUE: is a film review's phrase positive (SST-2); does one sentence follow from the other (MNLI, QNLI), do both ask
the same (QQP)?

All are scored on their development set, which has labels; MNLI on the matched one.
"""

from __future__ import annotations

from datasets import load_dataset

from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.readers import find_files, read_table


class GlueTask(Task):
    """One sentence a row, or two.

    Attributes:
        hub: The columns of the sentences in the hub's data set nyu-mll/glue, and its development split.
        columns: The columns of the sentences in files.
    """

    recipe = "pairs"
    files = {"train": ("train.tsv",), "validation": ("dev.tsv",)}
    labels: list[str]
    hub: tuple[tuple[str, ...], str]
    columns: tuple[str, ...] = ("sentence1", "sentence2")

    def load(self, data_dir: str | None) -> TaskData:
        if data_dir is None:
            given, validation = self.hub
            splits = load_dataset("nyu-mll/glue", self.name, split=["train", validation])
            names = dict(zip(given, ("text", "text_pair"), strict=False))
            splits = [split.rename_columns(names).select_columns([*names.values(), "label"]) for split in splits]
        else:
            layout = f"{'<TAB>'.join(self.columns)}<TAB>label after one header line, labels numbered as GLUE has them"
            paths, known = find_files(self.name, data_dir, self.files, layout), list(map(str, range(len(self.labels))))
            tables = [read_table(paths[split], [*self.columns, "label"]) for split in self.files]
            splits = [table.rows(*self.columns, label="label", known=known) for table in tables]
        # SST-2's phrases end in a space, which a tokenizer may see.
        train, validation = (split.map(lambda row: {"text": row["text"].strip(" ")}) for split in splits)
        return TaskData(train, {"validation": validation}, self.labels, texts_of(train))


class Sst2Task(GlueTask):
    name = recipe = "sst2"
    labels = ["negative", "positive"]
    hub, columns = (("sentence",), "validation"), ("sentence",)


class MnliTask(GlueTask):
    name = "mnli"
    files = {"train": ("train.tsv",), "validation": ("dev_matched.tsv",)}
    labels = ["entailment", "neutral", "contradiction"]
    hub = (("premise", "hypothesis"), "validation_matched")


class QnliTask(GlueTask):
    name = "qnli"
    files = {"train": ("train.tsv", "train_reconstructed.tsv"), "validation": ("dev.tsv",)}
    labels = ["entailment", "not_entailment"]
    hub = (("question", "sentence"), "validation")


class QqpTask(GlueTask):
    name = "qqp"
    labels = ["not_duplicate", "duplicate"]
    hub = (("question1", "question2"), "validation")
