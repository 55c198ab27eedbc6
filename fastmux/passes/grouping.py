"""Put rows into the slots of groups: one checkpoint has several speeds.

A group has N slots. With one copy of each row it serves N rows. With k copies of each of N // k rows it is slower and
more accurate, as each row is read in several slots, among fewer other rows (MUX-PLM, "ensembling"; MIMONets, "dynamic
inference").
"""

from __future__ import annotations

import numpy as np


def check_copies(copies: int, num_instances: int) -> None:
    """Raise ValueError for copies that are not from 1 to N."""
    if isinstance(copies, bool) or not isinstance(copies, int) or not 1 <= copies <= num_instances:
        if num_instances == 1:
            raise ValueError(f"copies is {copies!r}, expected 1: the model puts no rows together")
        raise ValueError(f"copies is {copies!r}, expected an integer from 1 to num_instances = {num_instances}")


def group_rows(order: np.ndarray, num_instances: int, copies: int = 1) -> np.ndarray:
    """The row in each slot, (G, N).

    A group has N // copies rows of ``order``. If they do not fill it, they take turns in the slots that are left, and
    so do the rows of a short last group: each has at least ``copies`` slots.

    Raises:
        ValueError: copies is not from 1 to N.

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.grouping import group_rows
        >>> group_rows(np.arange(3), num_instances=4, copies=2)
        array([[0, 1, 0, 1],
               [2, 2, 2, 2]])
    """
    check_copies(copies, num_instances)
    rows, slots = num_instances // copies, np.arange(num_instances)
    parts = [order[begin : begin + rows] for begin in range(0, len(order), rows)]
    if not parts:
        return order[:0].reshape(0, num_instances)
    return np.stack([part[slots % len(part)] for part in parts])


def average_slots(values: np.ndarray, slots: np.ndarray, rows: int) -> np.ndarray:
    """The mean over the slots of each row: values (G * N, ...) of the slots, slots (G, N) -> (rows, ...).

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.grouping import average_slots
        >>> average_slots(np.array([1.0, 2.0, 3.0, 4.0]), np.array([[0, 1], [1, 1]]), 2)
        array([1., 3.])
    """
    index = slots.ravel()
    if np.array_equal(index, np.arange(rows)):
        return values
    total = np.zeros((rows, *values.shape[1:]), values.dtype)
    np.add.at(total, index, values)
    count = np.maximum(1, np.bincount(index, minlength=rows)).astype(values.dtype)
    return total / count.reshape(-1, *[1] * (values.ndim - 1))
