"""The token ids of many rows, end to end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Tokens:
    """The token ids of rows, end to end.

    Attributes:
        ids: The token ids, (tokens), int32.
        lengths: The number of tokens of each row, (rows).
        types: The token types, (tokens), int8; None if all are 0.
        words: For each row the position of every word's first token, -1 where it has none; None where no word gets a
            tag.
        spans: For each row where its words begin and end in the text, (words, 2).
    """

    ids: np.ndarray
    lengths: np.ndarray
    types: np.ndarray | None = None
    words: list[np.ndarray] | None = None
    spans: list[np.ndarray] | None = None
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    @classmethod
    def of_rows(cls, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Tokens:
        """Lists of token ids, one for each row."""
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
        return cls(flat, lengths, None if types is None else np.fromiter(itertools.chain.from_iterable(types), np.int8))

    @classmethod
    def of_padded(cls, ids: np.ndarray, mask: np.ndarray | None = None, types: np.ndarray | None = None) -> Tokens:
        """The tokens of a padded batch, (rows, L) each. The mask is not 0 at tokens; rows may be padded on either side.

        Raises:
            ValueError: The mask has zeros between tokens.
        """
        inside = np.ones(ids.shape, bool) if mask is None else mask != 0
        lengths = inside.sum(1)
        holes = np.flatnonzero(np.abs(np.diff(inside, axis=1, prepend=0, append=0)).sum(1) > 2)
        if len(holes):
            raise ValueError(
                f"attention_mask has zeros between the tokens of row {holes[0]}, expected them at its ends"
            )
        return cls(ids[inside].astype(np.int32), lengths, None if types is None else types[inside].astype(np.int8))

    def padded(self, rows: np.ndarray, width: int, pad_id: int) -> dict[str, np.ndarray]:
        """Rows as ``input_ids``, ``attention_mask`` and, if there are types, ``token_type_ids``: (B, width) each."""
        inside = np.arange(width) < self.lengths[rows][:, None]
        source = np.minimum(self.starts[rows][:, None] + np.arange(width), max(0, len(self.ids) - 1))
        out = {"input_ids": np.where(inside, self.ids[source], pad_id), "attention_mask": inside}
        if self.types is not None:
            out["token_type_ids"] = np.where(inside, self.types[source], 0)
        return {name: value.astype(np.int64) for name, value in out.items()}

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """The places in `ids` of the tokens of rows, row after row."""
        return ranges(self.starts[rows], self.lengths[rows])

    def select(self, rows: np.ndarray) -> Tokens:
        """The tokens of these rows."""
        flat = self.flat(rows)
        return Tokens(
            self.ids[flat],
            self.lengths[rows],
            None if self.types is None else self.types[flat],
            None if self.words is None else [self.words[row] for row in rows],
            None if self.spans is None else [self.spans[row] for row in rows],
        )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start, as many as each length says, one after another.

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.tokens import ranges
        >>> ranges(np.array([7, 0]), np.array([2, 3]))
        array([7, 8, 0, 1, 2])
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Concatenate rows; types, words and spans are kept only if every part has them."""

    def every(name: str) -> list | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else values

    types, words, spans = every("types"), every("words"), every("spans")
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        None if types is None else np.concatenate(types),
        None if words is None else list(itertools.chain.from_iterable(words)),
        None if spans is None else list(itertools.chain.from_iterable(spans)),
    )
