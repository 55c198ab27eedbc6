"""What two models that embed have in common: each text's nearest neighbours, which search and retrieval return."""

from __future__ import annotations

import numpy as np

#: How many nearest neighbours of a text are compared.
NEIGHBOURS = 10


def nearest(vectors: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """The rows whose vectors have the largest cosines with each row's own, itself left out: (rows, D) -> (rows, count),
    each row's in ascending order.

    Example:
        >>> import numpy as np
        >>> from fastmux.embedding.neighbours import nearest
        >>> nearest(np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.1, 1.0]]), 1).ravel().tolist()
        [1, 0, 3, 2]
    """
    ours = directions(vectors)
    cosines = ours @ ours.T
    np.fill_diagonal(cosines, -np.inf)
    found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    return np.sort(found, axis=1)


def same_neighbours(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of the wanted neighbours is found: (rows, count) of rows, twice -> (rows, count), bool."""
    return (wanted[:, :, None] == found[:, None, :]).any(-1)


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors (rows, D) of length 1; one of length 0 stays as it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
