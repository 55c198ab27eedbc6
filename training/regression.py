"""Scores of a regression: R², the correlations of Pearson and Spearman, and the root of the mean squared error."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from scipy.stats import rankdata
from transformers import EvalPrediction


def sums(prediction: EvalPrediction, rows: Dataset) -> np.ndarray:
    """What each row adds, (rows, 12): 1, x, y, xx, yy and xy of the values, and the same of their ranks."""
    said, true = (np.asarray(x, dtype=float).reshape(-1) for x in (prediction.predictions, prediction.label_ids))
    return np.column_stack([*_moments(said, true), *_moments(rankdata(said), rankdata(true))])


def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums (..., 12) -> scores (...).

    Ranks are those among all rows that were predicted together: where only some of these are summed, the rank
    correlation is that of these ranks. A score that is undefined, as where all values are one, is 0.
    """
    count, _, _, xx, yy, xy = np.moveaxis(sums[..., :6], -1, 0)
    squares = np.maximum(xx - 2 * xy + yy, 0)
    spread, _, _ = _spreads(sums[..., :6])
    return {
        "r2": np.where(spread > 0, 1 - _over(squares, spread), 0.0),
        "pearson": _correlation(sums[..., :6]),
        "spearman": _correlation(sums[..., 6:]),
        "rmse": np.sqrt(_over(squares, count)),
    }


def spread(name: str, values: list[float]) -> str:
    """A sentence on the mean and spread of training rows, and whether the recipes' learning rates suit them."""
    mean, deviation = float(np.mean(values)), float(np.std(values))
    said = f"{name!r} has mean {mean:.4g} and standard deviation {deviation:.4g} in the training rows"
    if 0.1 <= deviation <= 10 and abs(mean) <= 10:
        return said
    return f"{said}: learning rates are meant for values of about 1, give them in other units if the scores are low"


def _moments(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    return [np.ones_like(x), x, y, x * x, y * y, x * y]


def _spreads(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sums of squared differences from the mean, of y and of x, and of their products. Mere rounding becomes 0."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    of_y, of_x = yy - _over(y * y, count), xx - _over(x * x, count)
    return np.where(of_y > 1e-12 * yy, of_y, 0.0), np.where(of_x > 1e-12 * xx, of_x, 0.0), xy - _over(x * y, count)


def _correlation(sums: np.ndarray) -> np.ndarray:
    of_y, of_x, both = _spreads(sums)
    return np.clip(_over(both, np.sqrt(of_y) * np.sqrt(of_x)), -1, 1)


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)
