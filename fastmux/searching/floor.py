"""The floor that every candidate has to beat: TF-IDF and a logistic regression, on the original's labels."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from fastmux.distillation.texts import Row
from fastmux.searching.shares import Share

#: So many rows are enough to tell how far words alone go.
_ROWS, _FEATURES = 20_000, 100_000


@dataclass(frozen=True)
class Floor:
    """How far words alone go.

    Attributes:
        agreement: The share of the rows that are reported on with the original's label (all labels, where several may
            hold).
        rows_per_second: From text to labels, on one core; the models' speeds do not count tokenising.
    """

    agreement: Share
    rows_per_second: float


def measure_floor(texts: list[Row], labels: np.ndarray, reporting: list[Row], expected: np.ndarray) -> Floor | None:
    """Learn the original's labels from words and pairs of words.

    Args:
        texts: The rows to learn from.
        labels: The original's labels of them, (rows), or (rows, C), 0 or 1, where several may hold.
        reporting: Rows to measure on.
        expected: The original's labels of these.

    Returns:
        None if there is only one label to learn.
    """
    learnt = np.asarray(labels[:_ROWS])
    regression = LogisticRegression(max_iter=200)
    model = make_pipeline(
        TfidfVectorizer(
            ngram_range=(1, 2), max_features=_FEATURES, sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]"
        ),
        OneVsRestClassifier(regression) if learnt.ndim == 2 else regression,
    )
    if learnt.ndim == 1 and len(np.unique(learnt)) < 2:
        return None
    model.fit([_text(row) for row in texts[:_ROWS]], learnt)
    start = time.perf_counter()
    said = model.predict([_text(row) for row in reporting])
    seconds = max(time.perf_counter() - start, 1e-9)
    same = (said == expected) if learnt.ndim == 1 else (said == expected).all(-1)
    return Floor(Share.of(same.astype(float)), len(reporting) / seconds)


def _text(row: Row) -> str:
    return row if isinstance(row, str) else " \u2016 ".join(row)
