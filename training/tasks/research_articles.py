"""Topics of research articles: which of six does a paper belong to, by its title and abstract? It may be several.

The contest "Topic Modeling for Research Articles" (Analytics Vidhya, JanataHack 2020) published labels of one file
alone. Its rows are parted here, the same way everywhere: eight tenths to train on, one tenth to choose thresholds by
("validation"), one tenth to report ("test").
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.readers import find_files, read_table


class ResearchArticlesTask(Task):
    """A title, its abstract, and which of the six topics hold, from a local file: the hub has no official copy."""

    name = "research_articles"
    recipe = "research_articles"
    kind = "multi_label"
    files = {"train": ("train.csv",)}
    labels = [
        "Computer Science",
        "Physics",
        "Mathematics",
        "Statistics",
        "Quantitative Biology",
        "Quantitative Finance",
    ]

    def load(self, data_dir: str | None) -> TaskData:
        layout = f"with columns TITLE, ABSTRACT, {', '.join(self.labels)}, each of these 0 or 1"
        if data_dir is None:
            raise ValueError(
                f"--task {self.name} needs --data_dir, a folder with train.csv (or .gz after it): {layout}"
            )
        path = find_files(self.name, data_dir, self.files, layout)["train"]
        table = read_table(path, ["TITLE", "ABSTRACT", *self.labels])
        rows = Dataset.from_dict({**table.texts("TITLE", "ABSTRACT"), "label": table.holds(self.labels)})
        tenth = len(rows) // 10
        if not tenth:
            raise ValueError(f"{path} has {len(rows)} rows, expected at least 10: a tenth is each held-out split")
        parts = np.split(np.random.default_rng(0).permutation(len(rows)), [len(rows) - 2 * tenth, len(rows) - tenth])
        train, validation, test = (rows.select(part) for part in parts)
        return TaskData(train, {"validation": validation, "test": test}, self.labels, texts_of(train))
