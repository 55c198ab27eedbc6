"""Turn logits into answers: a label and its score, several labels, a number, or tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow

from fastmux.passes.tokens import Tokens

#: The digits of a score; further ones differ between machines.
DIGITS = 6
_TEXT, _NUMBER = pyarrow.string(), pyarrow.float64()


def label_names(id2label: Mapping[int, object], labels: int) -> list[str]:
    """The names of all labels, in the order of their ids.

    Raises:
        ValueError: The ids are not 0, 1, ... up to the number of labels.
    """
    ids = sorted(id2label)
    if ids != list(range(labels)):
        there = ", ".join(map(str, ids[:20]))
        raise ValueError(f"id2label of the model has the ids {there}, expected 0 to {labels - 1}")
    return [str(id2label[index]) for index in range(labels)]


@dataclass(frozen=True)
class Answers:
    """How logits become answers.

    Args:
        per_token: Whether the model tags tokens.
        problem: The kind of labels, as Hugging Face's ``problem_type``.
        names: The names of the labels.
        all_scores: Give the scores of all labels, not only of the best one.
        spans: Say where the tagged words are in the text.
        prefix: Put before the names of the new columns.
    """

    per_token: bool
    problem: str
    names: list[str]
    all_scores: bool
    spans: bool
    prefix: str

    def check(self) -> None:
        """Raise ValueError if two labels have one name, as their scores would have one key."""
        if not self.all_scores or self.problem == "regression" or len(set(self.names)) == len(self.names):
            return
        name = next(name for name in self.names if self.names.count(name) > 1)
        ids = [str(index) for index, other in enumerate(self.names) if other == name]
        raise ValueError(
            f"all_scores gives every label a score under its name, but id2label of the model has {name!r} for "
            f"{' and '.join(ids)}"
        )

    def columns(self) -> dict[str, pyarrow.DataType]:
        """The names and types of the new columns."""
        every = pyarrow.struct([(name, _NUMBER) for name in self.names])
        several = self.per_token or self.problem == "multi_label_classification"
        if self.problem == "regression":
            named = {"score": _NUMBER if len(self.names) == 1 else pyarrow.list_(_NUMBER)}
        elif self.per_token:
            named = {"tags": pyarrow.list_(_TEXT), "scores": pyarrow.list_(every if self.all_scores else _NUMBER)}
            if self.spans:
                named["spans"] = pyarrow.list_(pyarrow.list_(pyarrow.int32()))
        elif several:
            named = {"labels": pyarrow.list_(_TEXT), "scores": every if self.all_scores else pyarrow.list_(_NUMBER)}
        else:
            named = {"label": _TEXT, "scores" if self.all_scores else "score": every if self.all_scores else _NUMBER}
        return {self.prefix + name: kind for name, kind in named.items()}

    def of(self, logits: np.ndarray, tokens: Tokens) -> dict[str, list]:
        """The values of the new columns, of logits (rows, C), or (tokens, C) of all rows' tokens end to end."""
        self.check()
        logits = logits.astype(np.float64)
        if self.problem == "regression":
            return self._named([row[0] if len(row) == 1 else row for row in _rounded(logits)])
        if self.per_token:
            return self._tags(_softmax(logits), tokens)
        if self.problem == "multi_label_classification":
            scores = sigmoid(logits)
            chosen = [np.flatnonzero(row).tolist() for row in logits > 0]
            values = _rounded(scores)
            labels = [[self.names[label] for label in row] for row in chosen]
            if self.all_scores:
                return self._named(labels, self._by_name(values))
            return self._named(labels, [[row[label] for label in own] for row, own in zip(values, chosen, strict=True)])
        scores = _softmax(logits)
        best, labels = scores.max(-1), [self.names[index] for index in logits.argmax(-1).tolist()]
        return self._named(labels, self._by_name(_rounded(scores)) if self.all_scores else _rounded(best))

    def _tags(self, scores: np.ndarray, tokens: Tokens) -> dict[str, list]:
        """A tag for each word, which is that of its first token; None for words that were cut off."""
        sure, chosen = _rounded(scores.max(-1)), scores.argmax(-1).tolist()
        every = _rounded(scores) if self.all_scores else None
        tags: list[list] = []
        values: list[list] = []
        for start, words in zip(tokens.starts[:-1].tolist(), tokens.words, strict=True):
            places = [None if word < 0 else start + word for word in words.tolist()]
            tags.append([None if place is None else self.names[chosen[place]] for place in places])
            if every is None:
                values.append([None if place is None else sure[place] for place in places])
            else:
                values.append(self._by_name([None if place is None else every[place] for place in places]))
        if self.spans:
            return self._named(tags, values, [spans.tolist() for spans in tokens.spans])
        return self._named(tags, values)

    def _by_name(self, rows: list[list[float] | None]) -> list[dict[str, float] | None]:
        return [None if row is None else dict(zip(self.names, row, strict=True)) for row in rows]

    def _named(self, *values: list) -> dict[str, list]:
        return dict(zip(self.columns(), values, strict=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits."""
    # Of a large negative logit the plain formula overflows.
    small = np.exp(-np.abs(logits))
    return np.where(logits < 0, small, 1.0) / (1.0 + small)


def _rounded(values: np.ndarray) -> list:
    return values.round(DIGITS).tolist()
