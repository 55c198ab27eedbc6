"""A cascade: rows of which a fast model is unsure go through the model that it was made from.

`choose_min_confidence` chooses the threshold on held-out rows, such that a given share of them gets the original's
label; `Engine` then sends less certain rows on. (Viola and Jones, 2001, for the word; "Model cascades" of
Wang et al., 2018, arXiv 1711.11541, for the use of a cheap model before a good one.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


def confidence(logits: np.ndarray, problem_type: str, lengths: np.ndarray | None = None) -> np.ndarray:
    """How sure a model is of a row: the probability of its label, or of the least certain one of several labels.

    Args:
        logits: The logits: (rows, C), or (tokens, C) of all rows' tokens end to end.
        problem_type: The kind of labels: "single_label_classification", also for tokens, or
            "multi_label_classification".
        lengths: The number of tokens of each row, (rows), if the logits are of tokens.

    Returns:
        (rows), from 1/C (1/2 for several labels) to 1, float64; 1 of a row without tokens.

    Raises:
        ValueError: The problem is a regression, whose output has no probability.

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.cascade import confidence
        >>> confidence(np.array([[0.0, 0.0], [9.0, 0.0]]), "single_label_classification").round(4)
        array([0.5   , 0.9999])
    """
    logits = np.asarray(logits, np.float64)
    if problem_type == "single_label_classification":
        sure = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    elif problem_type == "multi_label_classification":
        sure = (1 / (1 + np.exp(-np.abs(logits)))).min(-1)
    else:
        raise ValueError(
            f"problem_type is {problem_type!r}, expected 'single_label_classification' or "
            "'multi_label_classification': the output of a regression has no probability"
        )
    return sure if lengths is None else _least_by_row(sure, lengths)


def agrees(
    logits: np.ndarray, original: np.ndarray, problem_type: str, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Whether two models give a row the same label, or the same set of labels: (rows), bool.

    The shapes are those of `confidence`.
    """
    if problem_type == "regression":
        raise ValueError("problem_type is 'regression', expected a kind of labels: two numbers are hardly ever equal")
    if problem_type == "multi_label_classification":
        same = ((logits > 0) == (original > 0)).all(-1)
    else:
        same = logits.argmax(-1) == original.argmax(-1)
    return same if lengths is None else _least_by_row(same, lengths)


def _least_by_row(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The least of each row's values: (tokens) -> (rows); 1 for a row without tokens."""
    out = np.ones(len(lengths), values.dtype)
    there = lengths > 0
    if there.any():
        out[there] = np.minimum.reduceat(values, (np.cumsum(lengths) - lengths)[there])
    return out


@dataclass(frozen=True)
class CascadeThreshold:
    """What `choose_min_confidence` found on its rows.

    Attributes:
        min_confidence: Rows below it go through the original.
        agreement: The share of the rows that then have the original's label.
        fallback: The share of the rows that go through the original.
        rows: The number of rows on which this was found.
    """

    min_confidence: float
    agreement: float
    fallback: float
    rows: int


def choose_min_confidence(
    confidence: np.ndarray, agrees: np.ndarray, target_agreement: float, behind_agrees: np.ndarray | None = None
) -> CascadeThreshold:
    """The lowest confidence at which the cascade's labels agree with the original's as often as asked.

    Choose on rows that nothing was trained on, and report figures on other rows: the agreement on these was chosen.

    Args:
        confidence: The fast model's confidence of each row, (B).
        agrees: Whether its label is the original's, (B).
        target_agreement: The share of the rows that is to have the original's label, in (0, 1].
        behind_agrees: Whether what stands behind the fast model gives each row the original's label, (B): of the
            original in 8 bits, say. If None, the original itself stands there.

    Raises:
        ValueError: There are no rows, the target is out of range, or it is reached only if all rows go through the
            original (the message says what is the best below that).

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.cascade import choose_min_confidence
        >>> sure, same = np.array([0.6, 0.7, 0.8, 0.9]), np.array([False, True, False, True])
        >>> choose_min_confidence(sure, same, 0.75)
        CascadeThreshold(min_confidence=0.7, agreement=0.75, fallback=0.25, rows=4)
    """
    rows = len(confidence)
    if rows == 0:
        raise ValueError("no rows to choose a threshold on")
    if not 0.0 < target_agreement <= 1.0:
        raise ValueError(f"target_agreement is {target_agreement}, expected a number above 0, up to 1")
    # Each threshold is the confidence of a row, and keeps all rows with that confidence.
    levels, level = np.unique(np.asarray(confidence, np.float64), return_inverse=True)
    behind = np.ones(rows, bool) if behind_agrees is None else np.asarray(behind_agrees, bool)
    # What keeping the rows at a level changes, in wrong labels; at this level and above.
    more_wrong = np.bincount(level, weights=behind.astype(int) - np.asarray(agrees, bool), minlength=len(levels))
    kept = np.bincount(level, minlength=len(levels))
    more_wrong, kept = (values[::-1].cumsum()[::-1] for values in (more_wrong, kept))
    agreement = 1.0 - ((~behind).sum() + more_wrong) / rows
    enough = np.flatnonzero(agreement >= target_agreement)
    if len(enough) == 0:
        best = int(agreement.argmax())
        raise ValueError(
            f"target_agreement is {target_agreement}, which no threshold reaches on these {rows} rows: the best, "
            f"keeping the {int(kept[best])} most certain, is {agreement[best]:.4f}"
        )
    first = int(enough[0])
    return CascadeThreshold(
        min_confidence=float(levels[first]),
        agreement=float(agreement[first]),
        fallback=float(1.0 - kept[first] / rows),
        rows=rows,
    )


def beside_unseen(confidence: np.ndarray, agrees: np.ndarray, target_agreement: float) -> CascadeThreshold:
    """`choose_min_confidence` of all rows, with figures of rows that did not choose.

    A threshold is chosen on every other row and applied to the rest, and the other way round. The agreement and the
    share of the rows that go on are of these two; rows should be in random order.

    Raises:
        ValueError: As of `choose_min_confidence`, for all rows or for a half of them.
    """
    found = choose_min_confidence(confidence, agrees, target_agreement)
    same, went_on, halves = 0, 0, (slice(0, None, 2), slice(1, None, 2))
    for choose, apply in (halves, halves[::-1]):
        chosen = choose_min_confidence(confidence[choose], agrees[choose], target_agreement).min_confidence
        on = confidence[apply] < chosen
        same, went_on = same + int((agrees[apply] | on).sum()), went_on + int(on.sum())
    return replace(found, agreement=same / found.rows, fallback=went_on / found.rows)
