"""What a task is: raw text, labels and a recipe. Everything else is the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from datasets import Dataset


@dataclass(frozen=True)
class TaskData:
    """A task's raw text.

    Attributes:
        train: columns ``text``, for pairs ``text_pair``, and ``label`` (sequence tasks), or ``tokens`` and ``tags``
            (token tasks); labels are ids.
        evaluation: the same, by split name; the first one gives the learning curves.
        labels: names by id.
        text: what the retrieval warm-up and the tokenizer may use. No evaluation text is in it.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    labels: list[str]
    text: list[str] = field(repr=False)


class Task(ABC):
    """A task.

    Attributes:
        name: on the command line.
        recipe: its name.
        files: the names that each split's local file may have; none if the task has no files.
        kind: of head, "sequence" or "token".
        metric: the score that the report shows.
    """

    name: str
    recipe: str
    files: dict[str, tuple[str, ...]] = {}
    kind: str = "sequence"
    metric: str = "accuracy"

    @abstractmethod
    def load(self, data_dir: str | None) -> TaskData:
        """Reads the task from a local folder, or from its default source if that is None.

        Raises:
            ValueError: a file is missing or malformed; the message says which and what is expected.
        """


def texts_of(split: Dataset) -> list[str]:
    """Every text of a split."""
    if "tokens" in split.column_names:
        return [" ".join(words) for words in split["tokens"]]
    return [text for name in ("text", "text_pair") if name in split.column_names for text in split[name]]
