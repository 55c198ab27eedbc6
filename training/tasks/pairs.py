"""GLUE's sentence pairs: does the one follow from the other (MNLI, QNLI), do both ask the same (QQP)?

All are scored on their development set, which has labels; MNLI on the matched one.
"""

from __future__ import annotations

from datasets import load_dataset

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.readers import find_files, read_table


class PairTask(Task):
    """Two sentences a row.

    Attributes:
        hub: names, in the hub's data set nyu-mll/glue, of the two sentences' columns and of the development split.
    """

    recipe = "pairs"
    files = {"train": ("train.tsv",), "validation": ("dev.tsv",)}
    labels: list[str]
    hub: tuple[str, str, str]

    def load(self, data_dir: str | None) -> TaskData:
        if data_dir is None:
            first, second, validation = self.hub
            splits = load_dataset("nyu-mll/glue", self.name, split=["train", validation])
            names = {first: "text", second: "text_pair"}
            splits = [split.rename_columns(names).select_columns(["text", "text_pair", "label"]) for split in splits]
        else:
            layout = "sentence1<TAB>sentence2<TAB>label after one header line, labels numbered as GLUE has them"
            paths = find_files(self.name, data_dir, self.files, layout)
            known = [str(label) for label in range(len(self.labels))]
            splits = [
                read_table(paths[split], ["sentence1", "sentence2", "label"]).rows(
                    "sentence1", "sentence2", label="label", known=known
                )
                for split in self.files
            ]
        train, validation = splits
        return TaskData(train, {"validation": validation}, self.labels, texts_of(train))


class MnliTask(PairTask):
    name = "mnli"
    files = {"train": ("train.tsv",), "validation": ("dev_matched.tsv",)}
    labels = ["entailment", "neutral", "contradiction"]
    hub = ("premise", "hypothesis", "validation_matched")


class QnliTask(PairTask):
    name = "qnli"
    files = {"train": ("train.tsv", "train_reconstructed.tsv"), "validation": ("dev.tsv",)}
    labels = ["entailment", "not_entailment"]
    hub = ("question", "sentence", "validation")


class QqpTask(PairTask):
    name = "qqp"
    labels = ["not_duplicate", "duplicate"]
    hub = ("question1", "question2", "validation")
