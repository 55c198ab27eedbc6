"""Which column of an input is labelled, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastmux.labelling.settings import LabellingSettings
from fastmux.labelling.sources import Source

#: Names that text usually has, in data sets of the hub too.
_USUAL = ("text", "sentence", "tokens", "words")


@dataclass(frozen=True)
class Column:
    """What is labelled.

    Attributes:
        name: of the column.
        words: how a model that labels tokens knows words: "given", as they are in the row; "found", by its tokenizer;
            None for labels of whole rows.
        split: the words are what is between single spaces.
    """

    name: str
    words: str | None
    split: bool


def choose_column(source: Source, sample: Sequence[dict], settings: LabellingSettings, per_token: bool) -> Column:
    """The column that the settings name, or the one that holds text.

    Args:
        sample: the first rows.

    Raises:
        ValueError: there is no such column, or none that must be it; the message lists those there are.
    """
    names = source.columns or list(dict.fromkeys(name for row in sample for name in row))
    if not names:
        raise ValueError(f"{source.name} has no columns")
    there = ", ".join(map(repr, names))
    name = settings.column
    if name is None:
        usual = [known for known in _USUAL if known in names]
        if not usual and len(names) > 1:
            raise ValueError(f"{source.name} has the columns {there}; say with column which one is labelled")
        name = usual[0] if usual else names[0]
    for wanted in filter(None, (name, settings.pair_column)):
        if wanted not in names:
            raise ValueError(f"{source.name} has no column {wanted!r}; there are {there}")
    if not per_token:
        if settings.is_split_into_words:
            raise ValueError("is_split_into_words is for models that label tokens; this one labels rows")
        return Column(name, None, False)
    if settings.pair_column is not None:
        raise ValueError("pair_column is for models that label rows; this one labels tokens")
    lists = isinstance(next((row[name] for row in sample if row.get(name) is not None), None), list)
    if lists and settings.is_split_into_words:
        raise ValueError(f"is_split_into_words is for text, but column {name!r} holds lists of words")
    split = settings.is_split_into_words
    return Column(name, "given" if lists or split else "found", split)
