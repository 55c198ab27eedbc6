"""The law of a curve: what is still wrong after n row-updates is ``floor + scale * n ** -power``, fitted to points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: The powers that are tried: a curve that falls slower than the first looks like one without a floor, one that falls
#: faster than the last is at its floor.
POWERS = np.geomspace(0.05, 2.0, 75)
#: Points that a law is fitted to, at least: it has three parameters.
LEAST_POINTS = 4
#: Sets of rows, seeds and points that are drawn for an interval.
DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Estimate:
        """The first draw is the figure itself, the others are what it is for rows, seeds and points drawn anew."""
        low, high = np.quantile(draws[1:], (0.025, 0.975))
        return cls(float(draws[0]), float(low), float(high))


@dataclass(frozen=True)
class Laws:
    """Laws of several draws of the same points.

    Attributes:
        floor, scale, power: Of each draw, (draws).
    """

    floor: np.ndarray
    scale: np.ndarray
    power: np.ndarray

    def at(self, n: float) -> np.ndarray:
        """What is wrong after n row-updates, (draws)."""
        return self.floor + self.scale * n**-self.power


def fit(n: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> Laws:
    """The laws that fit best, by least squares: for each of `POWERS`, floor and scale solve linear equations, and
    neither is negative; the best power is taken.

    Args:
        n: Row-updates, (points).
        wrong: What is wrong there, from 0 to 1, (draws, points).
        weights: What the square of a point's error counts, (draws, points); 0 for a point that is left out.

    Raises:
        ValueError: There are fewer than `LEAST_POINTS` points.

    Example:
        >>> import numpy as np
        >>> from fastmux.training.fronts.law import fit
        >>> n = np.array([1e3, 1e4, 1e5, 1e6])
        >>> law = fit(n, 0.05 + 4 * n[None] ** -0.5, np.ones((1, 4)))
        >>> float(law.floor.round(2)[0]), float(law.power.round(1)[0])
        (0.05, 0.5)
    """
    if len(n) < LEAST_POINTS:
        raise ValueError(f"a law has three parameters: {len(n)} points are given, expected at least {LEAST_POINTS}")
    first = n.min()
    x = (n / first) ** -POWERS[:, None]  # (powers, points), from 0 to 1
    total, x_sum, xx_sum = weights.sum(-1, keepdims=True), weights @ x.T, weights @ (x * x).T
    y_sum, xy_sum = (weights * wrong).sum(-1, keepdims=True), (weights * wrong) @ x.T
    scale = (total * xy_sum - x_sum * y_sum) / np.maximum(total * xx_sum - x_sum**2, 1e-300)
    floor = (y_sum - scale * x_sum) / total
    no_floor, flat = floor < 0, scale < 0
    scale = np.where(no_floor, xy_sum / xx_sum, np.where(flat, 0.0, scale))
    floor = np.where(flat, y_sum / total, np.where(no_floor, 0.0, floor))
    errors = wrong[:, None] - floor[..., None] - scale[..., None] * x  # (draws, powers, points)
    best = (weights[:, None] * errors**2).sum(-1).argmin(-1)
    rows = np.arange(len(wrong))
    power = POWERS[best]
    return Laws(floor[rows, best], scale[rows, best] * first**power, power)


def draw_weights(things: int, draws: int, seed: int, distinct: int = 1) -> np.ndarray:
    """How often each of so many things is drawn where as many are drawn with replacement, (draws + 1, things), float32;
    once each in the first draw. A draw has at least ``distinct`` different ones."""
    random, found = np.random.default_rng(seed), [np.ones(things, np.float32)]
    while len(found) <= draws:
        own = np.bincount(random.integers(0, things, things), minlength=things)
        if (own > 0).sum() >= min(distinct, things):
            found.append(own.astype(np.float32))
    return np.stack(found)
