"""A model that embeds, loaded once, with texts in memory as they come: for servers and other programs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmux.embedding.loading import cut_at, embedding_form
from fastmux.labelling.checks import check_text
from fastmux.labelling.fastest import TIMED_ROWS, made_rows
from fastmux.labelling.loading import Asked, load
from fastmux.labelling.memory_rows import Tokenised, tokenised
from fastmux.labelling.settings import check_runtime
from fastmux.passes.tokens import Tokens, concatenate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Embedder:
    """A model that embeds, with its tokenizer, ready for texts.

    Args:
        model: A folder of sentence-transformers, or a name on the hub; or an `EmbeddingModel`.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        max_length: The tokens at which a text is cut. By default where the model says, at most ``batch_tokens``.
        batch_tokens, runtime, precision, dtype, device, torch_compile, execution: As in `fastmux.LabellingSettings`.
        texts: Texts on which ``runtime="auto"`` chooses; made-up rows if None. They are looked at only if it has not
            chosen before.

    Raises:
        ValueError: An option is out of range, or the model cannot be loaded or is not for the runtime.
        ImportError: The runtime is not installed.

    Example:
        >>> import fastmux
        >>> from transformers import BertConfig, BertModel, BertTokenizerFast
        >>> from fastmux.embedding.config import EmbeddingConfig
        >>> from fastmux.embedding.model import EmbeddingModel
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> embedder = fastmux.Embedder(EmbeddingModel(BertModel(tiny), EmbeddingConfig("mean")), tokenizer)
        >>> embedder.encode(["fine film", "film"]).shape
        (2, 32)
    """

    per_token, labels, fallback_name = False, (), None

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        torch_compile: bool = False,
        execution: str | None = None,
        texts: Iterable[str] | None = None,
    ):
        check_runtime(runtime, precision)
        asked = Asked(runtime, precision, device, dtype, batch_tokens, torch_compile, execution)
        self.placement = asked.placement(model)
        loaded = load(model, tokenizer, self.placement, own=texts is not None, form=embedding_form())
        vectorizer = loaded.classifier
        budget = self.placement.batch_tokens
        if max_length is not None and max_length > budget:
            raise ValueError(f"max_length is {max_length}, more than a pass holds: batch_tokens = {budget}")
        self.max_length = min(cut_at(vectorizer, max_length), budget)
        self.name = str(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__
        self.config, self.vector_size = vectorizer.config, vectorizer.vector_size
        self.model_class, self.num_instances = vectorizer.model_class, vectorizer.num_instances
        self._largest_id = max(vectorizer.vocabulary().values())
        self._tokenizer = vectorizer.row_tokenizer(self.max_length, True, None, False)
        self._tokenizer.start()
        if loaded.undecided:
            if texts is None:
                rows = made_rows(vectorizer.vocabulary(), self.max_length)
            else:
                rows = self._tokens(itertools.islice(texts, TIMED_ROWS), self.config.prompt())
            loaded = loaded.settled(rows, own=texts is not None)
        self.placement = loaded.placement
        #: How fast all were that might have run the model; None where nothing was to be chosen.
        self.choice = loaded.choice
        self.engine = loaded.classifier.engine(self.placement)

    @property
    def rows_per_group(self) -> int:
        """How many texts share a group; 1 for a model that joins none."""
        return self.engine.runtime.num_instances

    @property
    def instances_are(self) -> str | None:
        """What shares a pass, N at a time: "rows", or neighbouring "positions" of a row; None if N = 1."""
        return None if self.num_instances == 1 else "rows" if self.rows_per_group > 1 else "positions"

    def encode(
        self, texts: Sequence[str], *, prompt_name: str | None = None, truncate_dim: int | None = None
    ) -> np.ndarray:
        """The vectors of texts, (texts, D) float32, as ``SentenceTransformer.encode`` gives them.

        Args:
            texts: A list of texts. One that is longer than ``max_length`` is cut.
            prompt_name: One of the model's prompts, to stand before each text. By default its default one.
            truncate_dim: Keep so many first numbers, of length 1 if the model's vectors are. By default what the model
                keeps.

        Raises:
            ValueError: ``texts`` is one text or no list; a text is empty or no text, or has no token (the message says
                which); there is no such prompt; ``truncate_dim`` is out of range; or the model returns NaN or infinity.
        """
        if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
            raise ValueError(
                f"texts is a {type(texts).__name__}, expected a list of texts (fastmux.embed takes tables)"
            )
        if truncate_dim is not None and not 1 <= truncate_dim <= self.vector_size:
            raise ValueError(f"truncate_dim is {truncate_dim}, expected an integer from 1 to {self.vector_size}")
        tokens = self._tokens(texts, self._prompt(prompt_name))
        if len(tokens.lengths) == 0:
            return self.cut(np.zeros((0, self.vector_size), np.float32), truncate_dim)
        return self.cut(self.engine.run(tokens).logits.astype(np.float32), truncate_dim)

    def _tokens(self, texts: Iterable[str], prompt: str) -> Tokens:
        """The tokens of texts behind a prompt.

        Raises:
            ValueError: One of them is empty or no text, or has no token.
        """
        tokens, _ = self._tokenizer.encode([prompt + check_text(f"text {n}", text) for n, text in enumerate(texts, 1)])
        for number, length in enumerate(tokens.lengths.tolist(), 1):
            if (reason := self._tokenizer.length_problem(length)) is not None:
                raise ValueError(f"text {number} {reason}")
        return tokens

    def check_copies(self, copies: int) -> None:
        """Any number of copies will do: an embedder has no cascade."""

    def tokenise(self, rows: Sequence, prompt_name: str | None = None) -> list[Tokenised | ValueError]:
        """The tokens of texts, with the model's prompt before them and cut where the model says; or of lists of token
        ids, as they are. One that has no vector becomes a ValueError with the reason.

        Raises:
            ValueError: There is no prompt of that name, or none but the default one can be served.
        """
        prompt = self._prompt(prompt_name)
        fixed = not self.config.include_prompt and self.config.prompt() != ""
        found: list[Tokenised | ValueError | None] = [None] * len(rows)
        texts: list[tuple[int, str]] = []
        for place, row in enumerate(rows):
            try:
                if isinstance(row, str):
                    texts.append((place, prompt + check_text("the text", row)))
                elif fixed:
                    raise ValueError("is token ids, but the model leaves its prompt out of the pooling: send the text")
                else:
                    found[place] = self._of_ids(row)
            except ValueError as error:
                found[place] = error
        if texts:
            own = tokenised([text for _, text in texts], self._tokenizer, "text")
            for (place, _), row in zip(texts, own, strict=True):
                found[place] = row
        return found

    def _prompt(self, name: str | None) -> str:
        """The text of a prompt.

        Raises:
            ValueError: There is none of that name, or none but the default one can be used.
        """
        prompt = self.config.prompt(name)
        if not self.config.include_prompt and prompt != self.config.prompt():
            raise ValueError(
                f"prompt_name is {name!r}, but the model leaves its prompt out of the pooling and is "
                f"served with its default prompt alone, {self.config.default_prompt_name!r}"
            )
        return prompt

    def _of_ids(self, ids: Sequence[int]) -> Tokenised:
        if not 0 < len(ids) <= self.max_length:
            raise ValueError(f"has {len(ids)} token ids, expected 1 to {self.max_length}")
        if wrong := [one for one in ids if not 0 <= one <= self._largest_id]:
            raise ValueError(f"has the token id {wrong[0]}, expected 0 to {self._largest_id}")
        types = np.zeros(len(ids), np.int8) if self._tokenizer.types else None
        return Tokenised(Tokens(np.array(ids, np.int32), np.array([len(ids)]), types), "text")

    def of_length(self, length: int) -> Tokenised:
        """A text of so many equal tokens, to warm up with."""
        return self._of_ids([self.engine.runtime.pad_token_id] * length)

    def label(
        self, rows: Sequence[Tokenised], slots: np.ndarray, all_scores: Sequence[bool], again: bool = False
    ) -> list[dict]:
        """The vectors of texts that go through the model in one pass, as ``{"embedding": (D,) float32}``.

        Args:
            rows: The texts.
            slots: (G, N), the place in ``rows`` of each slot's text.
            all_scores, again: As for `fastmux.Labeller.label`; a vector has neither.

        Raises:
            ValueError: The model returns NaN or infinity.
        """
        vectors, _ = self.engine.one_pass(concatenate([row.tokens for row in rows]), slots)
        return [{"embedding": vector} for vector in vectors.astype(np.float32)]

    def cut(self, vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
        """The first numbers of a vector, or of each of several: so many, of length 1 if the model's are; by default
        what encode keeps."""
        if dimensions is None:
            return vectors[..., : self.config.truncate_dim]
        kept = vectors[..., :dimensions]
        if not self.config.normalizes:
            return kept
        return kept / np.maximum(np.linalg.norm(kept, axis=-1, keepdims=True), 1e-12)
