"""Which of the twelve largest packages of the standard library does a passage come from?"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from training.tasks.base import Task, TaskData
from training.tasks.stdlib_corpus import build_stdlib_corpus


class StdlibTask(Task):
    """Passages of the running Python's own library, or of a folder of packages given as ``data_dir``."""

    name = "stdlib"
    recipe = "stdlib"

    def load(self, data_dir: str | None) -> TaskData:
        corpus = build_stdlib_corpus(words=54, train_per_package=700, root=Path(data_dir) if data_dir else None)
        train, validation = (
            Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
            for rows in (corpus.train, corpus.validation)
        )
        return TaskData(train, {"validation": validation}, corpus.labels, corpus.text)
