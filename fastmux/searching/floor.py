"""The floor that every candidate has to beat: words alone. TF-IDF and a logistic regression on the original's labels,
or a ridge regression on its vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from fastmux.distillation.texts import Row
from fastmux.passes.shares import Share
from fastmux.searching.measure import Part

#: So many rows are enough to tell how far words alone go.
_ROWS, _FEATURES = 20_000, 100_000
#: What a word is.
_WORD = r"(?u)\w+|[^\w\s]"
#: Of ridge regressions on MiniLM's vectors, the best (0.1 and 1 have fewer of the same neighbours).
_RIDGE = 0.3


@dataclass(frozen=True)
class Floor:
    """How far words alone go.

    Attributes:
        agreement: The share of the rows that are reported on with the original's label (all labels, where several may
            hold), or of each one's nearest neighbours that are the same.
        rows_per_second: From text to labels or vectors, on one core; the models' speeds do not count tokenising.
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
        TfidfVectorizer(ngram_range=(1, 2), max_features=_FEATURES, sublinear_tf=True, token_pattern=_WORD),
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


def measure_vector_floor(texts: list[Row], vectors: np.ndarray, reporting: list[Row], part: Part) -> Floor:
    """Learn a vector for each word: a text's is their sum, weighed by TF-IDF, as near to the original's as can be.

    Args:
        texts: The rows to learn from.
        vectors: The original's vectors of them, (rows, D).
        reporting: Rows to measure on.
        part: The same rows, with the original's vectors.
    """
    model = make_pipeline(
        TfidfVectorizer(max_features=_FEATURES, sublinear_tf=True, token_pattern=_WORD),
        Ridge(_RIDGE, solver="sparse_cg", tol=1e-2, max_iter=50),
    )
    model.fit([_text(row) for row in texts[:_ROWS]], vectors[:_ROWS])
    start = time.perf_counter()
    said = model.predict([_text(row) for row in reporting])
    seconds = max(time.perf_counter() - start, 1e-9)
    return Floor(part.share([said]), len(reporting) / seconds)


def _text(row: Row) -> str:
    return row if isinstance(row, str) else " \u2016 ".join(row)
