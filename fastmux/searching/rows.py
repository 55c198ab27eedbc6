"""The rows of a search: each text once, tokenised once, and in one of three parts: learning, choosing, reporting."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from fastmux.distillation.texts import Row
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.known_text import check_known
from fastmux.passes.shares import known_to
from fastmux.passes.tokens import Tokens

#: The share and the largest number of the rows that models are chosen on, and of those that figures are reported on.
_APART, _MOST_APART = 0.2, 2000
#: The fewest different rows.
LEAST_ROWS = 500


@dataclass(frozen=True)
class SearchRows:
    """Texts that differ, as tokens, in three parts. No text is in two parts.

    Attributes:
        texts: The texts, or pairs.
        tokens: Their tokens, as `fastmux.predict` would make them; of a model that labels words, with the words.
        labels: The true label of each, (rows), or (rows, C) where several may hold; None without labels.
        learning: The numbers of the rows that candidates learn from.
        choosing: The numbers of the rows that decide which candidates go on, and which is chosen.
        reporting: The numbers of the rows that figures are reported on. They decide nothing.
        repeated: How many rows were left out because another row has the same tokens.
        cut: How many rows were cut at ``max_length``.
    """

    texts: list[Row]
    tokens: Tokens
    labels: np.ndarray | None
    learning: np.ndarray
    choosing: np.ndarray
    reporting: np.ndarray
    repeated: int
    cut: int

    @classmethod
    def of(
        cls,
        texts: list[Row],
        labels: np.ndarray | None,
        classifier: Classifier | Vectorizer,
        max_length: int,
        seed: int,
    ) -> SearchRows:
        """Tokenise and split texts.

        Raises:
            ValueError: There are too few different texts, or the tokenizer knows too little of them.
        """
        _check_enough(len(texts), len(texts))
        pairs = isinstance(texts[0], tuple)
        words = "found" if classifier.per_token else None
        row_tokenizer = classifier.row_tokenizer(max_length, True, words, pairs)
        row_tokenizer.start()
        tokens, cut = row_tokenizer.encode(texts)
        check_known(tokens.ids, classifier.tokenizer)
        first = _first_of_each(tokens)
        _check_enough(len(first), len(texts))
        order = np.random.default_rng(seed).permutation(first)
        apart = min(_MOST_APART, int(_APART * len(order)))
        return cls(
            texts=texts,
            tokens=tokens,
            labels=labels,
            learning=order[2 * apart :],
            choosing=order[:apart],
            reporting=order[apart : 2 * apart],
            repeated=len(texts) - len(first),
            cut=int(cut.sum()),
        )

    def dataset(self, rows: np.ndarray) -> Dataset:
        """Rows as models and collators take them, with a column ``length``."""
        some = self.tokens.select(rows)
        ends = some.starts.tolist()
        columns = {"input_ids": some.ids, "token_type_ids": some.types}
        listed = {
            name: [values[a:b].tolist() for a, b in itertools.pairwise(ends)]
            for name, values in columns.items()
            if values is not None
        }
        return Dataset.from_dict(listed | {"length": some.lengths.tolist()})


def _first_of_each(tokens: Tokens) -> np.ndarray:
    """The numbers of the rows that have tokens, and no row before them the same ones."""
    seen: set[bytes] = set()
    first = []
    for row, (begin, end) in enumerate(zip(tokens.starts[:-1], tokens.starts[1:], strict=True)):
        types = b"" if tokens.types is None else tokens.types[begin:end].tobytes()
        key = tokens.ids[begin:end].tobytes() + types
        worded = tokens.words is None or bool((tokens.words[row] >= 0).any())
        if end > begin and worded and key not in seen:
            seen.add(key)
            first.append(row)
    return np.array(first, np.int64)


def _check_enough(different: int, rows: int) -> None:
    if different >= LEAST_ROWS:
        return
    apart = int(_APART * different)
    counted = f"{rows:,} rows" if different == rows else f"{rows:,} rows, {different:,} of them different,"
    raise ValueError(
        f"texts has {counted} which leaves {apart:,} to report on: {known_to(apart)}; give at least {LEAST_ROWS:,} "
        "different rows, better some thousands"
    )
