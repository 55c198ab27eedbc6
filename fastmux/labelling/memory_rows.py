"""Rows that a program has in memory: their forms, and what is kept of one until it is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastmux.labelling.checks import check_text, check_words
from fastmux.labelling.row_tokenizer import Input, RowTokenizer
from fastmux.passes.tokens import Tokens

#: The forms of a row, for models that do not label tokens and for those that do.
ROWS = {False: 'a text or {"text": ..., "text_pair": ...}', True: 'a text or {"words": [...]}'}


@dataclass(frozen=True)
class Tokenised:
    """A row that can be labelled.

    Attributes:
        tokens: The tokens of this row.
        kind: The form of the row: "text", "pair" or "words"; or "score", a pair whose answer is the model's one score.
        cut: Whether it was longer than the model has room for.
    """

    tokens: Tokens
    kind: str
    cut: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens.ids)


def parsed_row(row: Any, per_token: bool) -> tuple[str, Input]:
    """The kind of a row, and the tokenizer's input.

    Args:
        row: In one of the forms of `ROWS`.
        per_token: Whether the model labels tokens.

    Raises:
        ValueError: It has another form, or its text cannot be labelled.
    """
    if isinstance(row, str):
        return "text", check_text("the text", row)
    keys = sorted(row) if isinstance(row, Mapping) else []
    if keys == ["text"]:
        return "text", check_text("text", row["text"])
    if keys == ["text", "text_pair"] and not per_token:
        return "pair", (check_text("text", row["text"]), check_text("text_pair", row["text_pair"]))
    if keys == ["words"] and per_token:
        return "words", check_words("words", row["words"])
    raise ValueError(f"a row must be {ROWS[per_token]}, got {str(row)[:100]!r}")


def tokenised(inputs: Sequence[Input], tokenizer: RowTokenizer, kind: str) -> list[Tokenised | ValueError]:
    """Each input with its tokens; a ValueError in place of one that has too many or none."""
    tokens, cut = tokenizer.encode(inputs)
    found: list[Tokenised | ValueError] = []
    for number, length in enumerate(tokens.lengths.tolist()):
        if (reason := tokenizer.length_problem(length)) is None:
            found.append(Tokenised(tokens.select(np.array([number])), kind, bool(cut[number])))
        else:
            found.append(ValueError(f"the row {reason}"))
    return found
