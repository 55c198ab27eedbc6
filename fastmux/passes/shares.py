"""A share of rows, words or neighbours, and the interval that a sample leaves open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from fastmux.passes.cascade import agrees
from fastmux.passes.tokens import Tokens


@dataclass(frozen=True)
class Share:
    """A share that was counted on a sample.

    Attributes:
        mean: The share.
        effective: The number of independent cases that the sample is worth: its rows; of words and neighbours, fewer
            than there are, as those of one row are right or wrong together.
        count: The number of cases: rows, words, or neighbours of rows.
    """

    mean: float
    effective: float
    count: int

    @classmethod
    def of(cls, same: np.ndarray, rows: np.ndarray | None = None, others: np.ndarray | None = None) -> Share:
        """The share of a sample.

        Args:
            same: For each case whether it is the same, or in which share of several trials, (cases).
            rows: The row of each case, where several may come from one row. The variance is then that of a ratio of
                sums over rows.
            others: A second row that each case depends on: the neighbour that is found or not. Two cases go together if
                they have a row in common (Aronow, Samii and Assenova, 2015, "Cluster-robust variance estimation for
                dyadic data").
        """
        mean, count = float(same.mean()), len(same)
        if rows is None:
            return cls(mean, float(count), count)
        different = len(np.unique(rows))
        apart = same - mean
        sums = np.bincount(rows, weights=apart)
        squares = float((sums**2).sum())
        if others is not None:
            either = sums + np.bincount(others, weights=apart, minlength=len(sums))
            pairs = np.unique(np.sort([rows, others], axis=0), axis=1, return_inverse=True)[1].ravel()
            twice = np.bincount(pairs, weights=apart)  # a pair is among the cases of both of its rows
            squares = max(squares, float((either**2).sum() - (twice**2).sum()))
        spread = squares / count**2
        return cls(mean, min(mean * (1 - mean) / spread, float(count)) if spread else float(different), count)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Jeffreys' interval (Brown, Cai and DasGupta, 2001, "Interval estimation for a binomial proportion").

        Example:
            >>> from fastmux.passes.shares import Share
            >>> low, high = Share(0.98, 1000.0, 1000).interval()
            >>> round(low, 3), round(high, 3)
            (0.97, 0.987)
        """
        yes, no = self.mean * self.effective, (1 - self.mean) * self.effective
        low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], yes + 0.5, no + 0.5)
        return (0.0 if yes == 0 else float(low)), (1.0 if no == 0 else float(high))

    @property
    def margin(self) -> float:
        """Half of the width of the 95 % interval."""
        low, high = self.interval()
        return (high - low) / 2

    def surely(self) -> float:
        """What the true share exceeds with a chance of nine in ten."""
        return self.interval(0.8)[0]


def same_labels(logits: np.ndarray, original: np.ndarray, problem_type: str, tokens: Tokens) -> np.ndarray:
    """Whether two models give the same label to each case: to each row, or to each word if ``tokens`` have words.

    Args:
        logits, original: As in `fastmux.passes.engine.Answered`.
        problem_type: As for `fastmux.passes.cascade.agrees`.
        tokens: The rows.
    """
    same = agrees(logits, original, problem_type)
    return same if tokens.words is None else same[word_places(tokens)]


def word_places(tokens: Tokens) -> np.ndarray:
    """The place of each word's first token among all tokens."""
    return np.concatenate(
        [start + words[words >= 0] for start, words in zip(tokens.starts, tokens.words, strict=False)]
    )


def rows_of_words(tokens: Tokens) -> np.ndarray | None:
    """The row of each word; None if rows are labelled as a whole."""
    if tokens.words is None:
        return None
    return np.repeat(np.arange(len(tokens.words)), [int((words >= 0).sum()) for words in tokens.words])


def known_to(rows: int, share: float = 0.98) -> str:
    """What so many rows tell of a share, in words.

    Example:
        >>> from fastmux.passes.shares import known_to
        >>> known_to(40)
        'a share of 98 % would be known to within ± 5.0 points'
    """
    margin = Share(share, float(max(1, rows)), max(1, rows)).margin
    return f"a share of {share:.0%} would be known to within \u00b1 {100 * margin:.1f} points".replace("%", " %")
