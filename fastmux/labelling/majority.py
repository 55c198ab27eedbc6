"""The share of the most frequent label: what a model that knows nothing of the rows would share with another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: So few rows may have one label by chance.
_FEW = 100
_OF_TEXTS = "texts: the original gives all {} that are kept apart {}; give text of all kinds that it tells apart"


def majority_share(
    logits: np.ndarray,
    problem_type: str,
    names: Sequence[str],
    what: str = "rows",
    message: str = _OF_TEXTS,
) -> float:
    """The share of the rows that have the most frequent label, or set of labels.

    Args:
        logits: The logits, (rows, C).
        problem_type: The kind of labels, as for `fastmux.passes.cascade.agrees`.
        names: The names of the labels.
        what: What has labels, for messages.
        message: What is wrong where all have one label, of how many rows and of the label, and what helps.

    Raises:
        ValueError: All rows, a hundred or more, have one label: to agree with it means nothing.

    Example:
        >>> import numpy as np
        >>> from fastmux.labelling.majority import majority_share
        >>> majority_share(np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), "single_label_classification", ["no", "yes"])
        0.6666666666666666
    """
    if problem_type == "multi_label_classification":
        given = logits > 0
        labels = np.unique(given, axis=0, return_inverse=True)[1].ravel()
        said = " and ".join(name for name, there in zip(names, given[0], strict=True) if there) or "no label"
    else:
        labels = logits.argmax(-1)
        said = repr(names[labels[0]])
    share = float(np.bincount(labels).max() / len(labels))
    if share == 1.0 and len(labels) >= _FEW:
        label = f"one label, {said}: agreement with it means nothing"
        raise ValueError(message.format(f"{len(labels):,} {what}", label))
    return share
