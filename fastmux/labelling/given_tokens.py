"""Rows whose tokens were made before: a column of token ids in place of text, as tokenizers of Hugging Face write it.

Imports neither torch nor transformers, for the processes of `fastmux.labelling.ahead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from pyarrow import types

from fastmux.passes.tokens import Tokens

#: The usual names of the column of token ids, and of the column that says which text of a pair each token is of.
IDS, TOKEN_TYPES = "input_ids", "token_type_ids"


def holds_ids(kind: pyarrow.DataType) -> bool:
    """Whether values of an Arrow type are lists of whole numbers."""
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(known(kind) for known in lists) and types.is_integer(kind.value_type)


def are_ids(value: object) -> bool:
    """Whether a value of a line is a list of whole numbers."""
    return type(value) is list and bool(value) and all(type(one) is int for one in value)


def of_columns(
    names: Sequence[str], columns: Sequence[pyarrow.ChunkedArray | list], largest_id: int, max_length: int
) -> tuple[Tokens, list[int], dict[int, str]]:
    """The tokens of rows.

    Args:
        names: The name of the column of token ids and, if there is one, that of the token types.
        columns: Their values: columns of a table, or lists with a value for each line, which may be a ValueError.
        largest_id: The largest id that there is.
        max_length: The most tokens of a row. Longer rows are not cut, as their last tokens are special ones.

    Returns:
        The tokens of the rows that can be labelled; their places; and for each other row, by its place, why it cannot.

    Example:
        >>> from fastmux.labelling.given_tokens import of_columns
        >>> tokens, places, problems = of_columns(["input_ids"], [[[1, 5, 2], [], [1, 99]]], 9, 8)
        >>> tokens.ids.tolist(), places, problems[2]
        ([1, 5, 2], [0], "column 'input_ids' holds the token id 99, expected 0 to 9")
    """
    problems: dict[int, str] = {}
    arrays = [_array(name, values, problems) for name, values in zip(names, columns, strict=True)]
    lengths = [pyarrow.compute.fill_null(pyarrow.compute.list_value_length(a), 0).to_numpy() for a in arrays]
    for place in np.flatnonzero(lengths[0] == 0).tolist():
        problems.setdefault(place, f"column {names[0]!r} is empty")
    for place in np.flatnonzero(lengths[0] > max_length).tolist():
        problems.setdefault(place, f"has {lengths[0][place]} tokens, the limit is {max_length}")
    if len(arrays) == 2:
        for place in np.flatnonzero(lengths[0] != lengths[1]).tolist():
            more = f"column {names[1]!r} has {lengths[1][place]} numbers, but {names[0]!r} has {lengths[0][place]}"
            problems.setdefault(place, more)
    flat = [_numbers(array) for array in arrays]
    rows = [np.repeat(np.arange(len(own)), own) for own in lengths]
    for name, numbers, row, what, most in zip(
        names, flat, rows, ("the token id ", "the token type "), (largest_id, 1), strict=False
    ):
        for at in np.flatnonzero((numbers < 0) | (numbers > most)).tolist():
            found = "a null" if numbers[at] == _NULL else f"{what}{numbers[at]}"
            problems.setdefault(int(row[at]), f"column {name!r} holds {found}, expected 0 to {most}")
    good = np.ones(len(lengths[0]), bool)
    good[list(problems)] = False
    kept = [numbers[good[row]] for numbers, row in zip(flat, rows, strict=True)]
    tokens = Tokens(kept[0].astype(np.int32), lengths[0][good], kept[1].astype(np.int8) if len(kept) == 2 else None)
    return tokens, np.flatnonzero(good).tolist(), problems


#: Stands for a null among numbers; no tokenizer has so small a number.
_NULL = np.iinfo(np.int64).min


def _array(name: str, values: pyarrow.ChunkedArray | list, problems: dict[int, str]) -> pyarrow.ListArray:
    """A column as one array of lists of 64-bit integers."""
    if isinstance(values, pyarrow.ChunkedArray):
        found = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
        return found.cast(pyarrow.list_(pyarrow.int64()))
    rows: list[list[int] | None] = []
    for place, value in enumerate(values):
        rows.append(None)
        if isinstance(value, ValueError):
            problems.setdefault(place, str(value))
        elif value is None or value == []:
            continue
        elif not are_ids(value) or not all(-(2**63) < one < 2**63 for one in value):
            problems.setdefault(place, f"column {name!r} must be a list of token ids, got {str(value)[:100]!r}")
        else:
            rows[-1] = value
    return pyarrow.array(rows, pyarrow.list_(pyarrow.int64()))


def _numbers(array: pyarrow.ListArray) -> np.ndarray:
    """All numbers of the lists, end to end."""
    flat: Any = array.flatten()
    return pyarrow.compute.fill_null(flat, int(_NULL)).to_numpy(zero_copy_only=False)
