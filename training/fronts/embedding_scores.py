"""What a model's vectors are worth: four uses of them, each scored as the field does, row by row.

A use that is not here: write a class like these and add it to `SCORINGS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from fastmux.embedding.neighbours import directions
from fastmux.training.run_result import Difference
from fastmux.training.scoring import resampled
from fastmux.training.tasks.glue import QnliTask, QqpTask, Sst2Task
from fastmux.training.tasks.readers import find_files

#: Draws of rows for an interval.
RESAMPLES = 1000
#: Ranks that count in a search.
TOP = 10
#: The labelled rows that a probe learns from.
PROBE_ROWS = 5000


@dataclass(frozen=True)
class Figures:
    """What a score is computed from.

    Attributes:
        rows: The figures of each row, (rows) or (rows, K).
        score: Makes the score of a selection of rows.
    """

    rows: np.ndarray
    score: Callable[[np.ndarray], float]

    def value(self) -> float:
        """The score of all rows."""
        return float(self.score(self.rows))

    def less(self, other: Figures) -> Difference:
        """The score less another model's on the same rows, with a 95 % interval over rows."""
        return resampled(lambda k: self.score(self.rows[k]) - other.score(other.rows[k]), len(self.rows), RESAMPLES)


class Scoring(ABC):
    """A use of vectors.

    Attributes:
        name: What it is scored on.
        metrics: The names of its scores; the first one is compared.
        queries: The texts that are embedded as queries, or as texts like one another.
        documents: The texts that are embedded as documents, which are searched.
        others: The texts of the splits that are not scored, to learn from.
    """

    name: str
    metrics: tuple[str, ...]
    queries: list[str]
    documents: list[str]
    others: list[str]

    @abstractmethod
    def __init__(self, data_dir: str):
        """Reads the rows.

        Raises:
            ValueError: A file is missing or malformed.
        """

    @abstractmethod
    def figures(self, queries: np.ndarray, documents: np.ndarray) -> list[Figures]:
        """The figures of each metric from the vectors (texts, D) of ``queries`` and ``documents``."""


class Similarity(Scoring):
    """The STS benchmark's test pairs: the rank correlation of the cosine with what people said, 0 to 5 (Cer et al.,
    SemEval 2017)."""

    name, metrics = "STS benchmark", ("Spearman",)

    def __init__(self, data_dir: str):
        files = {split: (f"sts-{split}.csv",) for split in ("train", "dev", "test")}
        layout = "tabs between genre, file, year, id, score, sentence, sentence; no header"
        paths = find_files("stsb", data_dir, files, layout)
        found = {split: self._read(path) for split, path in paths.items()}
        self.queries, self.documents = [text for _, *pair in found["test"] for text in pair], []
        self.said = np.array([score for score, *_ in found["test"]])
        self.others = [text for split in ("train", "dev") for _, *pair in found[split] for text in pair]

    @staticmethod
    def _read(path: Path) -> list[tuple[float, str, str]]:
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            cells = line.split("\t")
            try:
                rows.append((float(cells[4]), cells[5], cells[6]))
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}: line {number} has no score and two sentences at columns 5 to 7") from error
        return rows

    def figures(self, queries: np.ndarray, documents: np.ndarray) -> list[Figures]:
        rows = np.stack([cosines(queries[::2], queries[1::2]), self.said], 1)
        return [Figures(rows, lambda rows: spearmanr(rows[:, 0], rows[:, 1]).statistic)]


class Search(Scoring):
    """QNLI's questions, each of which searches all sentences of the development set for the one that answers it."""

    name, metrics = "QNLI search", ("nDCG@10", "MRR@10")

    def __init__(self, data_dir: str):
        data = QnliTask().checked(data_dir)
        (dev,) = data.evaluation.values()
        places = {text: place for place, text in enumerate(dict.fromkeys(dev["text_pair"]))}
        answered = [
            (q, places[d])
            for q, d, label in zip(dev["text"], dev["text_pair"], dev["label"], strict=True)
            if label == 0
        ]
        self.queries, self.documents = [question for question, _ in answered], list(places)
        self.answers = np.array([place for _, place in answered])
        self.others = [*data.train["text"], *data.train["text_pair"]]

    def figures(self, queries: np.ndarray, documents: np.ndarray) -> list[Figures]:
        queries, documents = directions(queries), directions(documents)
        ranks = np.empty(len(queries))
        for begin in range(0, len(queries), 1024):
            some = slice(begin, begin + 1024)
            near = queries[some] @ documents.T
            own = near[np.arange(len(near)), self.answers[some]]
            ranks[some] = (near > own[:, None]).sum(1) + 1
        found = ranks <= TOP
        # With one right document, the ideal gain is 1.
        return [Figures(np.where(found, gain, 0.0), np.mean) for gain in (1 / np.log2(1 + ranks), 1 / ranks)]


class Duplicates(Scoring):
    """QQP's pairs: the average precision of the cosine in telling which two ask the same."""

    name, metrics = "QQP duplicates", ("average precision",)

    def __init__(self, data_dir: str):
        data = QqpTask().checked(data_dir)
        (dev,) = data.evaluation.values()
        self.queries = [text for pair in zip(dev["text"], dev["text_pair"], strict=True) for text in pair]
        self.documents, self.same = [], np.array(dev["label"])
        self.others = [*data.train["text"], *data.train["text_pair"]]

    def figures(self, queries: np.ndarray, documents: np.ndarray) -> list[Figures]:
        rows = np.stack([self.same, cosines(queries[::2], queries[1::2])], 1)
        return [Figures(rows, lambda rows: average_precision_score(rows[:, 0], rows[:, 1]))]


class Probe(Scoring):
    """SST-2: the accuracy of a logistic regression on the vectors, which learns from some labelled rows."""

    name, metrics = "SST-2 probe", ("accuracy",)

    def __init__(self, data_dir: str):
        data = Sst2Task().checked(data_dir)
        (dev,) = data.evaluation.values()
        order = np.random.default_rng(0).permutation(len(data.train))
        train = data.train.select(np.sort(order[:PROBE_ROWS]))
        self.learnt, self.labels = len(train), np.array([*train["label"], *dev["label"]])
        self.queries, self.documents = [*train["text"], *dev["text"]], []
        # Its phrases are parts of one another: so many would crowd out whole sentences.
        self.others = [data.train["text"][int(k)] for k in order[PROBE_ROWS : 4 * PROBE_ROWS]]

    def figures(self, queries: np.ndarray, documents: np.ndarray) -> list[Figures]:
        vectors = directions(queries) * np.sqrt(queries.shape[1])
        probe = LogisticRegression(max_iter=1000).fit(vectors[: self.learnt], self.labels[: self.learnt])
        right = probe.predict(vectors[self.learnt :]) == self.labels[self.learnt :]
        return [Figures(right.astype(float), np.mean)]


SCORINGS: tuple[type[Scoring], ...] = (Similarity, Search, Duplicates, Probe)


def unlabelled(scorings: Sequence[Scoring], further: Sequence[str] = ()) -> list[str]:
    """The different texts of the splits that are not scored, and further ones, without those that are scored."""
    held = {text for scoring in scorings for text in (*scoring.queries, *scoring.documents)}
    texts = dict.fromkeys([text for scoring in scorings for text in scoring.others] + list(further))
    return [text for text in texts if text.strip() and text not in held]


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The cosine of each row's vectors, (rows, D) twice -> (rows)."""
    return (directions(ours) * directions(theirs)).sum(1)
