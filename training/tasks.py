"""The tasks ``train.py`` knows: a task is one class and one line in ``TASKS``.

A task brings raw text, labels and a recipe (``recipes.py``); everything else is the same for all of them. To
train on your own data, write a class like ``Sst2Task`` below and add its line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, load_dataset

from training.recipes import CONLL2003, SST2, STDLIB, Recipe
from training.stdlib_corpus import build_stdlib_corpus


@dataclass(frozen=True)
class TaskData:
    """A task's raw text.

    Attributes:
        train: columns ``text`` and ``label`` (sequence tasks) or ``tokens`` and ``tags`` (token tasks);
            labels are ids.
        evaluation: the same, by split name; the first one gives the learning curves.
        labels: names by id.
        text: what the retrieval warm-up and the tokenizer may use. No evaluation text is in it.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    labels: list[str]
    text: list[str] = field(repr=False)


class Task(ABC):
    """``name`` on the command line, ``kind`` of head ("sequence" or "token"), ``metric``, ``recipe``."""

    name: str
    kind: str = "sequence"
    metric: str = "accuracy"
    recipe: Recipe

    @abstractmethod
    def load(self, data_dir: str | None) -> TaskData:
        """Reads the task from a local folder, or from its default source if that is None.

        Raises:
            ValueError: a file is missing or malformed; the message says which and what is expected.
        """


class StdlibTask(Task):
    """Which of the twelve largest packages of the running standard library does a passage come from?"""

    name = "stdlib"
    recipe = STDLIB

    def load(self, data_dir: str | None) -> TaskData:
        corpus = build_stdlib_corpus(words=54, train_per_package=700, root=Path(data_dir) if data_dir else None)
        train, validation = (
            Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
            for rows in (corpus.train, corpus.validation)
        )
        return TaskData(train, {"validation": validation}, corpus.labels, corpus.text)


class Sst2Task(Task):
    """GLUE SST-2: is a film review's phrase positive? Scored on the development set, which has labels."""

    name = "sst2"
    recipe = SST2
    files = {"train": "train.tsv", "validation": "dev.tsv"}

    def load(self, data_dir: str | None) -> TaskData:
        if data_dir is None:
            splits = load_dataset("stanfordnlp/sst2", split=list(self.files))
            splits = [split.rename_column("sentence", "text").select_columns(["text", "label"]) for split in splits]
            train, validation = splits
        else:
            paths = find_files(self.name, data_dir, self.files, "sentence<TAB>label after one header line")
            train, validation = (read_tsv(paths[split], num_labels=2) for split in self.files)
        train, validation = (split.map(strip_text) for split in (train, validation))
        return TaskData(train, {"validation": validation}, ["negative", "positive"], list(train["text"]))


class Conll2003Task(Task):
    """CoNLL-2003 English named entities, scored by entity F1 on the development and the test set."""

    name = "conll2003"
    kind = "token"
    metric = "f1"
    recipe = CONLL2003
    files = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
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
            splits = [read_conll(paths[split], self.labels) for split in self.files]
        train, validation, test = splits
        text = [" ".join(tokens) for tokens in train["tokens"]]
        return TaskData(train, {"validation": validation, "test": test}, self.labels, text)


#: Every task by name.
TASKS: dict[str, type[Task]] = {task.name: task for task in (StdlibTask, Sst2Task, Conll2003Task)}


def find_files(task: str, data_dir: str, files: dict[str, str], layout: str) -> dict[str, Path]:
    """Paths of a task's files by split, in ``data_dir`` or in its subfolder of the task's name.

    Raises:
        ValueError: names the missing files, the folders looked into and the layout expected.
    """
    folders = [Path(data_dir), Path(data_dir) / task]
    found = [{split: folder / name for split, name in files.items() if (folder / name).is_file()} for folder in folders]
    best = max(found, key=len)
    if len(best) < len(files):
        folder = folders[found.index(best)]
        missing = ", ".join(name for split, name in files.items() if split not in best)
        raise ValueError(
            f"data_dir={data_dir!r}: {missing} missing in {folder}; --task {task} expects "
            f"{', '.join(files.values())} there or in its subfolder {task}/, UTF-8, {layout}"
        )
    return best


def read_tsv(path: Path, num_labels: int) -> Dataset:
    """Reads ``sentence<TAB>label`` lines under a header; quotes have no meaning in them.

    Raises:
        ValueError: names the first malformed line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].split("\t") != ["sentence", "label"]:
        raise ValueError(f"{path}: the first line must be 'sentence<TAB>label', got {lines[:1]}")
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    allowed = {str(label) for label in range(num_labels)}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or row[1].strip() not in allowed:
            raise ValueError(f"{path}: row {number} must be 'sentence<TAB>label', label in {sorted(allowed)}: {row}")
    if not rows:
        raise ValueError(f"{path}: no rows under the header")
    return Dataset.from_dict({"text": [row[0] for row in rows], "label": [int(row[1]) for row in rows]})


def read_conll(path: Path, labels: list[str]) -> Dataset:
    """Reads ``token tag`` lines, sentences apart by blank lines.

    Raises:
        ValueError: names the first line that has another shape or an unknown tag.
    """
    ids = {name: label for label, name in enumerate(labels)}
    tokens: list[list[str]] = [[]]
    tags: list[list[int]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split()
        if not columns:
            tokens.append([])
            tags.append([])
        elif columns[0] != "-DOCSTART-":
            if len(columns) < 2 or columns[-1] not in ids:
                raise ValueError(f"{path}: line {number} must be 'token tag', tag in {labels}: {line!r}")
            tokens[-1].append(columns[0])
            tags[-1].append(ids[columns[-1]])
    kept = [index for index, sentence in enumerate(tokens) if sentence]
    if not kept:
        raise ValueError(f"{path}: no sentences")
    return Dataset.from_dict({"tokens": [tokens[i] for i in kept], "tags": [tags[i] for i in kept]})


def strip_text(row: dict) -> dict:
    """GLUE's sentences end in a space."""
    return {"text": row["text"].strip()}
