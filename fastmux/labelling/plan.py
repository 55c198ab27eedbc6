"""Which rows share a pass: rows of like length, as many as a budget of positions allows."""

from __future__ import annotations

import numpy as np

#: A batch of rows of like length ends early where rows are this much shorter than its longest, ...
_ALIKE = 0.9
#: ... once it has this share of its budget: a pass costs something for itself. In groups of 40 short rows a batch of
#: 1024 positions holds a third of 8192 rows; without this nearly a third of its positions are padding.
_LEAST = 0.25


def length_batches(
    lengths: np.ndarray, batch_tokens: int, multiple: int = 1, *, shared: int = 1, prefix: int = 0
) -> list[np.ndarray]:
    """Rows of like length together, as many as ``batch_tokens`` hold with padding, the longest first.

    A batch that is a quarter full ends where rows are a tenth shorter than its longest one.

    Args:
        lengths: (rows), tokens of each.
        batch_tokens: padded positions of a batch, at most, unless ``multiple`` rows alone have more.
        multiple: every batch but the last has a multiple of so many rows.
        shared: rows that share one sequence of positions in the encoder.
        prefix: positions before each sequence.

    Example:
        >>> import numpy as np
        >>> length_batches(np.array([3, 9, 4, 8]), 18, multiple=2)
        [array([1, 3]), array([2, 0])]
    """
    order = np.argsort(-lengths, kind="stable")
    positions = np.maximum(1, lengths[order]) + prefix
    ascending = -positions
    batches, begin = [], 0
    while begin < len(order):
        longest = int(positions[begin])
        most, least = (
            max(multiple, budget // longest * shared // multiple * multiple)
            for budget in (batch_tokens, int(batch_tokens * _LEAST))
        )
        alike = int(np.searchsorted(ascending, -_ALIKE * longest, side="right")) - begin
        count = min(most, max(least, -(-alike // multiple) * multiple))
        batches.append(order[begin : begin + count])
        begin += count
    return batches
