"""A task: raw text, labels and a recipe. Everything else is the same for all tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from datasets import Dataset

from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.training.entities import seqeval_tags

#: Kind of head -> the columns of its rows, and the metrics that a report can show.
KINDS = {
    "sequence": (("text", "label"), ("accuracy",)),
    "multi_label": (("text", "label"), ("accuracy", "micro_f1", "macro_f1")),
    "regression": (("text", "label"), ("r2", "pearson", "spearman")),
    "token": (("tokens", "tags"), ("f1", "accuracy")),
}


@dataclass(frozen=True)
class TaskData:
    """A task's raw text.

    Attributes:
        train: Columns ``text``, for pairs ``text_pair``, and ``label`` (sequence tasks), or ``tokens`` and ``tags``
            (token tasks); labels are ids, -100 for words that are not asked for. In multi-label tasks ``label`` is a
            list, a 0 or 1 for each label; in regressions a number.
        evaluation: Rows of the same columns by the name of the split. There is at least one split. The first gives the
            learning curves and, in multi-label tasks, the thresholds by which the others are scored.
        labels: The names of the labels by id; for a regression, the one name of what is measured.
        text: The text that the retrieval warm-up and the tokenizer may use. No evaluation text is in it.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    labels: list[str]
    text: list[str] = field(repr=False)


class Task(ABC):
    """A task.

    Attributes:
        name: Its name on the command line.
        recipe: The name of its recipe.
        files: The names that each split's local file may have; none if the task has no files.
        kind: The kind of head: "sequence", "multi_label", "regression" or "token".
        metric: The score that the report shows.
        tag_scheme: What the tags say of a token task whose metric is f1: "entities" or "types", see
            `fastmux.training.entities`.
        variants: The variants that are trained by default.
    """

    name: str
    recipe: str
    files: dict[str, tuple[str, ...]] = {}
    kind: str = "sequence"
    metric: str = "accuracy"
    tag_scheme: str = "entities"
    variants: tuple[str, ...] = ("plain", "index", "unbind")

    @abstractmethod
    def load(self, data_dir: str | None) -> TaskData:
        """Reads the task from a local folder, or from its default source if that is None.

        Raises:
            ValueError: A file is missing or malformed. The message says which, and what is expected.
        """

    def checked(self, data_dir: str | None) -> TaskData:
        """What `load` reads, checked.

        Raises:
            ValueError: As `load`; or an attribute of the task, or a row, is not allowed.
        """
        name = type(self).__name__
        for attribute, known in (("kind", KINDS), ("metric", KINDS.get(self.kind, ((), ()))[1])):
            if getattr(self, attribute) not in known:
                raise ValueError(
                    f"{name}.{attribute} is {getattr(self, attribute)!r}, expected one of {', '.join(map(repr, known))}"
                )
        data = self.load(data_dir)
        if not data.evaluation:
            raise ValueError(f"{name} has no evaluation split, expected at least one")
        if self.kind == "token" and self.metric == "f1":
            try:
                seqeval_tags(data.labels, self.tag_scheme)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        for split, rows in {"train": data.train, **data.evaluation}.items():
            self._check(f"{name}: {split}", rows, len(data.labels))
        return data

    def _check(self, where: str, rows: Dataset, labels: int) -> None:
        (inputs, targets), _ = KINDS[self.kind]
        if not {inputs, targets} <= set(rows.column_names):
            raise ValueError(f"{where} has the columns {', '.join(rows.column_names)}, expected {inputs} and {targets}")
        if not len(rows):
            raise ValueError(f"{where} has no rows")
        ids = {*range(labels), IGNORE_INDEX}
        for number, (given, own) in enumerate(zip(rows[inputs], rows[targets], strict=True), 1):
            if self.kind == "token" and len(own) != len(given):
                raise ValueError(
                    f"{where}: row {number} has {len(given)} {inputs} and {len(own)} {targets}, expected one each"
                )
            if self.kind == "multi_label":
                allowed = isinstance(own, list) and len(own) == labels and set(own) <= {0, 1}
                wrong, expected = [] if allowed else [own], f"{labels} numbers, 0 or 1"
            elif self.kind == "regression":
                allowed = isinstance(own, float) and math.isfinite(own)
                wrong, expected = [] if allowed else [own], "a number, as a float"
            else:
                found, expected = own if self.kind == "token" else [own], f"an id from 0 to {labels - 1}"
                wrong = [label for label in found if type(label) is not int or label not in ids]
            if wrong:
                raise ValueError(f"{where}: row {number} has the label {wrong[0]!r}, expected {expected}")


def texts_of(split: Dataset) -> list[str]:
    """Every text of a split."""
    if "tokens" in split.column_names:
        return [" ".join(words) for words in split["tokens"]]
    return [text for name in ("text", "text_pair") if name in split.column_names for text in split[name]]
