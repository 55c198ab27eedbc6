"""What a task is: raw text, labels and a recipe. Everything else is the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from datasets import Dataset


@dataclass(frozen=True)
class TaskData:
    """A task's raw text.

    Attributes:
        train: columns ``text`` and ``label`` (sequence tasks) or ``tokens`` and ``tags`` (token tasks); labels are ids.
        evaluation: the same, by split name; the first one gives the learning curves.
        labels: names by id.
        text: what the retrieval warm-up and the tokenizer may use. No evaluation text is in it.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    labels: list[str]
    text: list[str] = field(repr=False)


class Task(ABC):
    """Attributes: ``name`` on the command line, ``recipe`` by name, ``kind`` of head ("sequence" or "token"), and
    ``metric``, the score that the report shows."""

    name: str
    recipe: str
    kind: str = "sequence"
    metric: str = "accuracy"

    @abstractmethod
    def load(self, data_dir: str | None) -> TaskData:
        """Reads the task from a local folder, or from its default source if that is None.

        Raises:
            ValueError: a file is missing or malformed; the message says which and what is expected.
        """
