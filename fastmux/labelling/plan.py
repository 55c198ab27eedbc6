"""Which rows share a pass: rows of like length, as many as a budget of positions allows."""

from __future__ import annotations

import numpy as np


def length_batches(
    lengths: np.ndarray, batch_tokens: int, multiple: int = 1, *, shared: int = 1, prefix: int = 0
) -> list[np.ndarray]:
    """Rows of like length together, as many as ``batch_tokens`` hold with padding, the longest first.

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
    batches, begin = [], 0
    while begin < len(order):
        sequences = batch_tokens // (max(1, int(lengths[order[begin]])) + prefix)
        rows = order[begin : begin + max(multiple, sequences * shared // multiple * multiple)]
        batches.append(rows)
        begin += len(rows)
    return batches
