"""Choose the column of an input that is labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow
from pyarrow import types

from fastmux.labelling.given_tokens import IDS, TOKEN_TYPES, are_ids, holds_ids
from fastmux.tables.opening import Source
from fastmux.tables.table_source import TableSource
from fastmux.tables.values import check_columns, column_names

#: Usual names of a column of text, also in data sets of the hub; and of one of token ids, where there is no text.
_USUAL = ("text", "sentence", "tokens", "words", IDS)


@dataclass(frozen=True)
class Column:
    """The column that is labelled, or the two columns of pairs, or of token ids and token types.

    Attributes:
        names: The names of the column and, for pairs, of the column of the second text.
        places: The places of these columns in a table.
        words: Where the words come from that a model tags: "given" by the row, "found" by the tokenizer, or None if the
            model labels whole rows.
        split: Whether text is split at single spaces into words.
        ids: Whether the column holds token ids.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    words: str | None
    split: bool
    ids: bool = False


def choose_names(source: Source, column: str | None, pair_column: str | None) -> tuple[str, ...]:
    """The name of the column of text, as given or with a usual name; and that of the second text of pairs.

    Raises:
        ValueError: The column does not exist or exists twice, or none is given and it is not clear which is meant. The
            message lists the columns.
    """
    names = column_names(source)
    if not names:
        raise ValueError(f"{source.name} has no columns")
    if column is None:
        usual = [known for known in _USUAL if known in names]
        if not usual and len(names) > 1:
            there = ", ".join(map(repr, names))
            raise ValueError(f"{source.name} has the columns {there}; say with column which one is labelled")
        column = usual[0] if usual else names[0]
    chosen = (column,) if pair_column is None else (column, pair_column)
    check_columns(source, chosen)
    return chosen


def choose_column(
    source: Source, column: str | None, pair_column: str | None, is_split_into_words: bool, per_token: bool
) -> Column:
    """Choose what a model that labels tokens or rows labels of a source.

    Raises:
        ValueError: As in `choose_names`; the column holds neither text, nor lists of words, nor token ids; or an option
            is for the other kind of model or column.
    """
    names = choose_names(source, column, pair_column)
    if _holds_ids(source, names[0]):
        return _ids(source, names, is_split_into_words, per_token)
    places = _places(source, names)
    if not per_token:
        if is_split_into_words:
            raise ValueError("is_split_into_words is for models that label tokens; this one labels rows")
        check_text_columns(source, names)
        return Column(names, places, None, False)
    if pair_column is not None:
        raise ValueError("pair_column is for models that label rows; this one labels tokens")
    lists = _holds_lists(source, names[0])
    if lists and is_split_into_words:
        raise ValueError(f"is_split_into_words is for text, but column {names[0]!r} holds lists of words")
    if not lists:
        check_text_columns(source, names)
    return Column(names, places, "given" if lists or is_split_into_words else "found", is_split_into_words)


def _places(source: Source, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(source.columns.index(name) for name in names) if source.columns else ()


def _ids(source: Source, names: tuple[str, ...], is_split_into_words: bool, per_token: bool) -> Column:
    """A column of token ids, with that of the token types if there is one of the usual name.

    Raises:
        ValueError: The model labels words, which token ids do not tell; or there is an option for text.
    """
    if per_token:
        raise ValueError(f"column {names[0]!r} holds token ids, but the model labels words: give it text or words")
    if len(names) > 1 or is_split_into_words:
        option = "pair_column" if len(names) > 1 else "is_split_into_words"
        raise ValueError(f"{option} is for text, but column {names[0]!r} holds token ids")
    if column_names(source).count(TOKEN_TYPES) == 1 and names[0] != TOKEN_TYPES:
        names = (*names, TOKEN_TYPES)
    return Column(names, _places(source, names), None, False, ids=True)


def check_text_columns(source: Source, names: Sequence[str]) -> None:
    """Raise ValueError for a column of a table that is not text. The values of lines are checked row by row."""
    if isinstance(source, TableSource):
        for name in names:
            kind = source.schema.field(source.columns.index(name)).type
            if not _is_text(kind):
                raise ValueError(f"{source.name}: column {name!r} is {kind}, expected text")


def _is_text(kind: pyarrow.DataType) -> bool:
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _is_text(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    return any(known(kind) for known in (types.is_string, types.is_large_string, types.is_string_view, types.is_null))


def _holds_ids(source: Source, name: str) -> bool:
    if isinstance(source, TableSource):
        return holds_ids(source.schema.field(source.columns.index(name)).type)
    return are_ids(next((row[name] for row in source.sample if row.get(name)), None))


def _holds_lists(source: Source, name: str) -> bool:
    if isinstance(source, TableSource):
        kind = source.schema.field(source.columns.index(name)).type
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
        if not any(known(kind) for known in lists):
            return False
        if not _is_text(kind.value_type):
            raise ValueError(f"{source.name}: column {name!r} is {kind}, expected text or lists of words")
        return True
    return isinstance(next((row[name] for row in source.sample if row.get(name) is not None), None), list)
