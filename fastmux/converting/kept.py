"""How much of the original's answer to each row another model keeps, and how that is said."""

from __future__ import annotations

import numpy as np

from fastmux.embedding.neighbours import NEIGHBOURS, directions, nearest, same_neighbours
from fastmux.models.problems import PROBLEMS, Regression, SingleLabel, TokenLabels, Vectors
from fastmux.passes.cascade import agrees
from fastmux.searching.need import percent


def kept_by_row(said: np.ndarray, wanted: np.ndarray, problem: str | None, lengths: np.ndarray) -> np.ndarray:
    """How much each row keeps, (rows): 1 is all of it, and the mean over rows is the figure.

    Of labels it is whether they are the same (the share of a row's tokens, where tokens have labels); of vectors the
    share of the ten nearest neighbours; of numbers 1 less the squared error over the variance, whose mean is R²;
    without a head the mean cosine of the states.

    Args:
        said, wanted: The model's and the original's answers, as in `fastmux.passes.engine.Answered`.
        problem: The kind of labels, of `fastmux.models.problems`; None without a head.
        lengths: The number of tokens of each row, (rows).

    Example:
        >>> import numpy as np
        >>> from fastmux.converting.kept import kept_by_row
        >>> said, wanted = np.array([[0.0, 1.0], [3.0, 1.0]]), np.array([[2.0, 1.0], [2.0, 1.0]])
        >>> kept_by_row(said, wanted, "single_label_classification", np.array([4, 4]))
        array([0., 1.])
    """
    if problem == Regression.name:
        spread = wanted.var(0)
        return 1 - ((said - wanted) ** 2 / np.where(spread > 0, spread, 1.0)).mean(-1)
    if problem == Vectors.name and len(said) > NEIGHBOURS:
        return same_neighbours(nearest(said), nearest(wanted)).mean(-1)
    if problem is None or problem == Vectors.name:
        cosines = (directions(said) * directions(wanted)).sum(-1)
        return cosines if problem is not None else _means(cosines, lengths)
    if problem == TokenLabels.name:
        return _means(agrees(said, wanted, SingleLabel.name), lengths)
    return agrees(said, wanted, problem).astype(np.float64)


def _means(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of each row's tokens: (tokens) -> (rows)."""
    return np.add.reduceat(values.astype(np.float64), np.cumsum(lengths) - lengths) / lengths


def in_words(kept: float, problem: str | None) -> str:
    """A mean of `kept_by_row` in words.

    Example:
        >>> from fastmux.converting.kept import in_words
        >>> in_words(0.971, "single_label_classification"), in_words(0.93, "regression")
        ('97.1 % of the labels', '93 % of the variance')
    """
    if problem is None:
        return f"a cosine of {figure(kept, problem)} of the states"
    what = {Regression.name: "variance", Vectors.name: "nearest neighbours"}
    same = PROBLEMS[problem].same or ""
    return f"{figure(kept, problem)} of the {what.get(problem, same.removeprefix('same '))}"


def figure(kept: float, problem: str | None) -> str:
    """A mean of `kept_by_row` alone: "97.1 %", or a cosine without a head."""
    return f"{kept:.3f}" if problem is None else percent(kept)
