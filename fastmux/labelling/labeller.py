"""A classifier that is loaded once and labels rows in memory as they come: for servers and other programs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow

from fastmux.labelling.fastest import TIMED_ROWS, made_rows
from fastmux.labelling.labels import Answers
from fastmux.labelling.loading import AnyClassifier, Asked, Loaded, Model, load, load_behind
from fastmux.labelling.memory_rows import ROWS, Tokenised, parsed_row, tokenised
from fastmux.labelling.row_tokenizer import Input, RowTokenizer
from fastmux.labelling.settings import check_runtime
from fastmux.labelling.threshold import stored_calibration
from fastmux.passes.cascade import CascadeThreshold
from fastmux.passes.engine import Engine
from fastmux.passes.tokens import Tokens, concatenate
from fastmux.tables.opening import is_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Labeller:
    """A classifier of sequences or tokens, with its tokenizer, ready to label rows.

    A row is a text. For a model that labels rows it may also be ``{"text": ..., "text_pair": ...}``, for one that
    labels tokens ``{"words": [...]}``. Its answer has the columns that `fastmux.predict` would add to the row.

    Args:
        model: The classifier: a T-MUX, a joined model or a plain encoder; or its name or folder, which `fastmux.export`
            may have written.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        max_length: The most tokens of a row. If None, as many as the model has room for, at most ``batch_tokens``.
        truncation: Cut longer rows there; otherwise they are refused.
        fallback: Another model, for the rows of which the first one is less sure than ``min_confidence``.
        min_confidence: A probability; it goes with ``fallback``. `calibrate` finds it. If None, it is read from the
            model's folder, where `fastmux.calibrate` puts it.
        batch_tokens, runtime, precision, dtype, device, torch_compile, execution: As in `fastmux.LabellingSettings`.
        texts: Rows on which ``runtime="auto"`` chooses; made-up ones if None. They are looked at only if it has not
            chosen before.

    Raises:
        ValueError: An option is out of range or contradicts another one, or the model is no classifier, cannot be
            loaded, or is not for the runtime.
        ImportError: The runtime is not installed.

    Example:
        >>> import fastmux
        >>> from transformers import BertConfig, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
        >>> labeller = fastmux.Labeller(model, tokenizer)
        >>> first, second = labeller(["fine film", ""])
        >>> sorted(first), second
        (['label', 'score'], {'error': 'the text is empty'})
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = False,
        fallback: Model | None = None,
        min_confidence: float | None = None,
        batch_tokens: int | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        torch_compile: bool = False,
        execution: str | None = None,
        texts: Iterable | None = None,
    ):
        self._calibration = stored_calibration(model, fallback, min_confidence)
        if self._calibration is not None:
            min_confidence = self._calibration.min_confidence
        check_runtime(runtime, precision)
        self._asked = Asked(runtime, precision, device, dtype, batch_tokens, torch_compile, execution)
        self.placement = self._asked.placement(model)
        loaded = load(model, tokenizer, self.placement, own=texts is not None)
        self._classifier = classifier = loaded.classifier
        self._tokenizer, self.name = tokenizer, _name(model)
        self.per_token, self.labels = classifier.per_token, classifier.names
        #: N, the number of inputs that share a pass of the model (see `instances_are`); 1 for a plain encoder.
        self.num_instances: int = classifier.num_instances
        budget = self.placement.batch_tokens
        if max_length is not None and max_length > budget:
            raise ValueError(f"max_length is {max_length}, more than a pass holds: batch_tokens = {budget}")
        self.max_length = min(classifier.max_length(max_length), budget)
        self._tokenizers: dict[str, RowTokenizer] = {}
        self._refused: dict[str, str] = {}
        for kind, words in (("text", "found"), ("words", "given")) if self.per_token else (("text", None),):
            try:
                self._tokenizers[kind] = classifier.row_tokenizer(
                    self.max_length, truncation, words, pairs=not self.per_token
                )
            except ValueError as error:
                if kind == "text":
                    raise
                self._refused[kind] = str(error)
            else:
                self._tokenizers[kind].start()
        if not self.per_token:
            self._tokenizers["pair"] = self._tokenizers["text"]
        self._answers = {
            (kind, every): classifier.answers(tokenizer.words, every)
            for kind, tokenizer in self._tokenizers.items()
            for every in (False, True)
        }
        if self.gives_one_score:
            self._answers["score", False] = Answers(False, "regression", self.labels, False, False, "")
        behind_it: Engine | None = None
        #: The fallback and its name.
        self.fallback: AnyClassifier | None = None
        self.fallback_name = None
        if fallback is not None:
            self.fallback, behind_it = self._behind(fallback, texts)
            self.fallback_name = _name(fallback)
            if self._calibration is not None:
                self._calibration.check(self.fallback)
        loaded = self._settled(loaded, texts)
        self.placement, self._classifier, self.choice = loaded.placement, loaded.classifier, loaded.choice
        self.model_class = self._classifier.model_class
        self.engine = self._classifier.engine(self.placement, 1, behind_it, min_confidence)

    @property
    def instances_are(self) -> str | None:
        """What shares a pass, N at a time: "rows", or neighbouring "positions" of a row; None if N = 1."""
        return None if self.num_instances == 1 else "rows" if self.rows_per_group > 1 else "positions"

    @property
    def rows_per_group(self) -> int:
        """How many rows share a group; 1 for a model that joins no rows."""
        return self.engine.runtime.num_instances

    @property
    def gives_one_score(self) -> bool:
        """Whether a row, or a pair of texts, gets one number and no label, as cross-encoders give it."""
        return not self.per_token and len(self.labels) == 1

    def columns(self, all_scores: bool = False) -> dict[str, pyarrow.DataType]:
        """The columns of an answer to a text, and their Arrow types, for tables of answers."""
        return self._answers["text", all_scores].columns()

    def __call__(self, rows: Iterable, *, copies: int = 1, all_scores: bool = False) -> list[dict]:
        """The answer to each row. A row that cannot be labelled gets ``{"error": reason}``.

        Rows of like length share a group and a pass.

        Args:
            rows: A list of rows.
            copies: How many slots of a multiplexed model each row takes.
            all_scores: Give the scores of all labels, not only of the best one.

        Raises:
            ValueError: ``rows`` is one text, one row or a table; copies is out of range; or the model returns NaN or
                infinity.
        """
        self.check_copies(copies)
        engine = replace(self.engine, copies=copies)
        found = self.tokenise(rows)
        good = [row for row in found if isinstance(row, Tokenised)]
        answers: list[dict] = []
        if good:
            tokens = concatenate([row.tokens for row in good])
            answers = self._written(engine.run(tokens).logits, tokens, good, [all_scores] * len(good))
        left = iter(answers)
        return [next(left) if isinstance(row, Tokenised) else {"error": str(row)} for row in found]

    def calibrate(
        self,
        rows: Iterable,
        *,
        fallback: Model | None = None,
        target_agreement: float = 0.99,
        copies: int = 1,
    ) -> CascadeThreshold:
        """Find the lowest ``min_confidence`` at which a share of the rows gets the label that the fallback gives them.

        Use rows that neither model was trained on, and that you do not report figures on. On other rows the agreement
        equals the target only on average.

        Args:
            rows: Rows; their labels are not needed.
            fallback: The fallback, for example the model that this one was made from. If None, this labeller's own.
            target_agreement: The share of the rows, in (0, 1].
            copies: The ``copies`` with which rows will be labelled.

        Raises:
            ValueError: There is no fallback, or it has other labels; a row cannot be labelled (the message names it);
                no threshold reaches the target; or the model is a regression.

        Example:
            >>> import fastmux
            >>> from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
            >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
            >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
            >>> tiny = BertConfig(
            ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
            ... )
            >>> original = BertForSequenceClassification(tiny)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(original, num_instances=2)
            >>> rows = ["fine film", "film", "fine", "fine fine film"]
            >>> found = fastmux.Labeller(model, tokenizer).calibrate(rows, fallback=original, target_agreement=0.1)
            >>> both = fastmux.Labeller(
            ...     model, tokenizer, fallback=original, min_confidence=found.min_confidence
            ... )
            >>> len(both(rows))
            4
        """
        behind = self.engine.fallback if fallback is None else self._behind(fallback, rows)[1]
        if behind is None:
            raise ValueError("fallback is None, and the labeller has none of its own; expected a model")
        engine = replace(self.engine, copies=copies, fallback=behind, min_confidence=0.0)
        return engine.calibrate(self.tokens(rows), target_agreement)

    def check_copies(self, copies: int) -> None:
        """Raise ValueError for another number of copies than the model's cascade was calibrated with."""
        if self._calibration is not None:
            self._calibration.check_copies(copies)

    def _behind(self, fallback: Model, texts: Iterable | None) -> tuple[AnyClassifier, Engine]:
        """The fallback and its engine; on ``texts`` its runtime is chosen, if it is to be."""
        own = texts is not None
        loaded = load_behind(fallback, self._tokenizer, self._classifier, self.max_length, self._asked, own)
        loaded = self._settled(loaded, texts)
        return loaded.classifier, loaded.classifier.engine(loaded.placement)

    def _settled(self, loaded: Loaded, texts: Iterable | None) -> Loaded:
        """The model for the runtime that is the fastest on texts, or on rows that are made up."""
        if not loaded.undecided:
            return loaded
        if texts is None:
            return loaded.settled(made_rows(self._classifier.vocabulary(), self.max_length), own=False)
        return loaded.settled(self.tokens(itertools.islice(texts, TIMED_ROWS)), own=True)

    def tokens(self, rows: Iterable) -> Tokens:
        """The tokens of rows that must all be fit to be labelled.

        Raises:
            ValueError: One is not, or there are none.
        """
        parts = []
        for number, row in enumerate(self.tokenise(rows), 1):
            if not isinstance(row, Tokenised):
                raise ValueError(f"row {number} cannot be labelled: {row}")
            parts.append(row.tokens)
        if not parts:
            raise ValueError("rows is empty, expected rows to choose a threshold on")
        return concatenate(parts)

    def tokenise(self, rows: Iterable) -> list[Tokenised | ValueError]:
        """Tokenise rows; a row that cannot be labelled becomes a ValueError with the reason.

        Raises:
            ValueError: ``rows`` is one text, one row or a table.
        """
        if isinstance(rows, (str, bytes, Mapping)) or is_table(rows) or not isinstance(rows, Iterable):
            raise ValueError(
                f"rows is a {type(rows).__name__}, expected a list of rows, each {ROWS[self.per_token]} "
                "(fastmux.predict takes tables)"
            )
        rows = list(rows)
        found: list[Tokenised | ValueError | None] = [None] * len(rows)
        by_kind: dict[str, list[tuple[int, Input]]] = {}
        for place, row in enumerate(rows):
            try:
                kind, given = parsed_row(row, self.per_token)
                if kind in self._refused:
                    raise ValueError(self._refused[kind])
            except ValueError as error:
                found[place] = error
            else:
                by_kind.setdefault(kind, []).append((place, given))
        for kind, some in by_kind.items():
            rows = tokenised([given for _, given in some], self._tokenizers[kind], kind)
            for (place, _), row in zip(some, rows, strict=True):
                found[place] = row
        return found

    def pair_tokenizer(self, truncation: bool) -> RowTokenizer:
        """A tokenizer of pairs that cuts those that are too long, or does not."""
        own = self._tokenizers["text"]
        if own.truncation != truncation:
            own = replace(own, truncation=truncation)
            own.start()
        return own

    def of_length(self, length: int) -> Tokenised:
        """A row of so many equal tokens, to warm up with."""
        words, spans = ([np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)]) if self.per_token else (None, None)
        ids = np.full(length, self.engine.runtime.pad_token_id, np.int32)
        return Tokenised(Tokens(ids, np.array([length]), np.zeros(length, np.int8), words, spans), "text")

    def label(
        self, rows: Sequence[Tokenised], slots: np.ndarray, all_scores: Sequence[bool], again: bool = False
    ) -> list[dict | None]:
        """The answers to rows that go through the model in one pass.

        Args:
            rows: The rows.
            slots: (G, N), the place in ``rows`` of each slot's row. A row in several slots is averaged over them.
            all_scores: For each row, whether its answer has the scores of all labels.
            again: Whether the fallback answers.

        Returns:
            The answers; None for a row of which the model is less sure than ``min_confidence``.

        Raises:
            ValueError: The model returns NaN or infinity.
        """
        tokens = concatenate([row.tokens for row in rows])
        engine = self.engine.fallback if again and self.engine.fallback is not None else self.engine
        logits, unsure = engine.one_pass(tokens, slots)
        answers: list[dict | None] = [*self._written(logits, tokens, rows, all_scores)]
        for place in np.flatnonzero(unsure):
            answers[place] = None
        return answers

    def _written(
        self, logits: np.ndarray, tokens: Tokens, rows: Sequence[Tokenised], all_scores: Sequence[bool]
    ) -> list[dict]:
        """The answers to rows, each with the columns of its kind."""
        kinds = [(row.kind, every) for row, every in zip(rows, all_scores, strict=True)]
        written: dict[int, dict] = {}
        for kind in dict.fromkeys(kinds):
            places = np.array([place for place, own in enumerate(kinds) if own == kind])
            flat = tokens.flat(places) if self.per_token else places
            some = concatenate([rows[place].tokens for place in places])
            columns = self._answers[kind].of(logits[flat], some)
            for place, *values in zip(places.tolist(), *columns.values(), strict=True):
                written[place] = dict(zip(columns, values, strict=True))
        return [written[place] for place in range(len(rows))]


def _name(model: Model) -> str:
    return str(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__
