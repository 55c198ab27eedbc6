"""The true labels of rows, where a table has them: as numbers, or by the names that the model gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "", "none")


def read_labels(values: Sequence[object], names: Sequence[str], problem_type: str) -> np.ndarray:
    """The labels of rows: (rows), or of a model that gives several labels (rows, C), 0 or 1.

    Args:
        values: For each row its label, a name or a number; or for several labels a list with 0 or 1 for each.
        names: The model's labels, by number.
        problem_type: Of the model.

    Raises:
        ValueError: A value is none of the labels; the message names the row.
    """
    if problem_type == "multi_label_classification":
        return np.array([_several(row, value, len(names)) for row, value in enumerate(values, 1)])
    known = {str(number): number for number in range(len(names))} | {name: k for k, name in enumerate(names)}
    folded = {name.casefold(): k for name, k in known.items()}
    found = []
    for row, value in enumerate(values, 1):
        one = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        key = str(one).strip()
        key = key.removesuffix(".0") if isinstance(one, float) else key
        number = known.get(key, folded.get(key.casefold()))
        if number is None:
            listed = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"labels: row {row} has {key!r:.60}, expected one of {listed}, or its number")
        found.append(number)
    return np.array(found)


def _several(row: int, value: object, count: int) -> list[int]:
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise ValueError(f"labels: row {row} has {value!r:.60}, expected 0 or 1 for each of the model's {count} labels")
    out = []
    for one in value:
        key = str(one).strip().casefold()
        if key not in _YES and key not in _NO:
            raise ValueError(f"labels: row {row} has {key!r:.60}, expected 0 or 1")
        out.append(int(key in _YES))
    return out
