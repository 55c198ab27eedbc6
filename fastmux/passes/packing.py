"""Rows of a pass that are packed: groups lie end to end in one sequence, none padded to the length of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fastmux.passes.tokens import Tokens, ranges


@dataclass(frozen=True)
class PackedRows:
    """The rows in the slots of groups that lie end to end.

    Attributes:
        ids: The token ids, (N, T): the rows in slot i of all groups, each padded to the longest row of its group.
        lengths: The number of tokens of the row in each slot, (G, N).
        types: The token types, (N, T); None if all are 0.

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.packing import PackedRows
        >>> from fastmux.passes.tokens import Tokens
        >>> tokens = Tokens.of_rows([[1, 2, 3], [4], [5, 6], [7, 8]])
        >>> packed = PackedRows.of(tokens, np.array([[0, 1], [2, 3]]), pad_id=0)
        >>> packed.ids
        array([[1, 2, 3, 5, 6],
               [4, 0, 0, 7, 8]], dtype=int32)
        >>> packed.sizes, packed.starts, packed.places
        (array([3, 2]), array([0, 3]), array([0, 1, 2, 5, 3, 4, 8, 9]))
    """

    ids: np.ndarray
    lengths: np.ndarray
    types: np.ndarray | None = None

    @classmethod
    def of(cls, tokens: Tokens, slots: np.ndarray, pad_id: int) -> PackedRows:
        """Pack rows, slots (G, N) of them."""
        lengths = tokens.lengths[slots]
        sizes = np.maximum(1, lengths.max(1))
        group = np.repeat(np.arange(len(slots)), sizes)
        place = ranges(np.zeros(len(slots), np.int64), sizes)
        inside = place < lengths[group].T
        source = np.minimum(tokens.starts[slots][group].T + place, max(0, len(tokens.ids) - 1))
        ids = np.where(inside, tokens.ids[source], np.int32(pad_id))
        types = None if tokens.types is None else np.where(inside, tokens.types[source], np.int8(0))
        return cls(ids, lengths, types)

    @cached_property
    def sizes(self) -> np.ndarray:
        """The positions of each group, (G), at least 1."""
        return np.maximum(1, self.lengths.max(1))

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each group begins, (G)."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def place_in_group(self) -> np.ndarray:
        """The place of each position in its group, (T)."""
        return ranges(np.zeros_like(self.sizes), self.sizes)

    @cached_property
    def row_starts(self) -> np.ndarray:
        """Where the row in each slot begins in ``ids.ravel()``, (G, N)."""
        return self.starts[:, None] + np.arange(self.ids.shape[0]) * self.ids.shape[1]

    @cached_property
    def places(self) -> np.ndarray:
        """The places in ``ids.ravel()`` of the tokens of the rows, slot after slot of each group."""
        return ranges(self.row_starts.ravel(), self.lengths.ravel())

    def without_types(self) -> PackedRows:
        """The same rows, all of whose token types are 0."""
        return replace(self, types=None)

    def positions(self, first: int, last: int, pad_id: int | None) -> np.ndarray:
        """The position ids of tokens, of which the first of a row has ``first`` and none more than ``last``.

        Args:
            pad_id: Of encoders that count positions from the tokens that are not padding, as RoBERTa does: the token,
                which is also the position id of padding. None where places count.

        Returns:
            (T) where instances share them, else (N, T).
        """
        if pad_id is None:
            return np.minimum(self.place_in_group + first, last)
        real = self.ids != pad_id
        counted = real.cumsum(1)
        before = np.repeat(counted[:, self.starts] - real[:, self.starts], self.sizes, axis=1)
        return np.where(real, np.minimum(counted - before + (first - 1), last), pad_id)


def ends(sizes: np.ndarray) -> np.ndarray:
    """Where sequences of these sizes begin, end to end, and where the last one ends: (G) -> (G + 1)."""
    return np.concatenate([[0], np.cumsum(sizes)])
