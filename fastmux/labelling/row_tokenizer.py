"""Tokenise rows: the ids that the model is given, and where the words of a row are among them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from fastmux.passes.tokens import Tokens, concatenate

#: A text, the two texts of a pair, or the words of a text.
Input = str | tuple[str, str] | list[str]


#: How many rows are encoded at a time. An encoding has many kilobytes, and the next ones reuse its memory.
_TOGETHER = 512


@dataclass
class RowTokenizer:
    """A tokenizer for processes that tokenise. With a Rust tokenizer they need neither torch nor transformers.

    Args:
        tokenizer: The JSON of a Rust tokenizer; or any other tokenizer of transformers.
        max_length: The most tokens of a row.
        truncation: Cut longer rows there. Otherwise they keep their length, and the caller rejects them.
        words: Say where the words are: "given" for lists of words, "found" for texts, None for neither.
        types: Say for each token which text of a pair it belongs to.
        side: The side on which longer rows are cut: "right" or "left".
        prompt: Put before each text, where rows are texts.
    """

    tokenizer: Any
    max_length: int
    truncation: bool
    words: str | None
    types: bool
    side: str = "right"
    prompt: str = ""
    _rust: Tokenizer | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Build the tokenizer; call this once in each process, before `encode`."""
        if isinstance(self.tokenizer, str):
            rust = Tokenizer.from_str(self.tokenizer)
            rust.no_padding()
            rust.no_truncation()
            if self.truncation:
                rust.enable_truncation(self.max_length, direction=self.side)
            self._rust = rust

    @cached_property
    def largest_id(self) -> int:
        """The largest token id that there is; the tokenizer is started."""
        return max((self.tokenizer if self._rust is None else self._rust).get_vocab().values())

    def encode(self, inputs: Sequence[Input]) -> tuple[Tokens, np.ndarray]:
        """The tokens of rows; and (rows,) bool, which of them were cut."""
        if not isinstance(self.tokenizer, str):
            return self._encode_slowly(inputs)
        # It is faster without the places of tokens and words in the text.
        run = self._rust.encode_batch if self.words else self._rust.encode_batch_fast
        if len(inputs) > _TOGETHER and not self.words:
            parts = [self.encode(inputs[at : at + _TOGETHER]) for at in range(0, len(inputs), _TOGETHER)]
            return concatenate([tokens for tokens, _ in parts]), np.concatenate([cut for _, cut in parts])
        if self.prompt:
            inputs = [f"{self.prompt}{text}" for text in inputs]
        found: list[Encoding] = run(inputs, is_pretokenized=self.words == "given")
        cut = np.zeros(len(found), bool)
        if self.truncation:
            cut = np.fromiter((bool(encoding.overflowing) for encoding in found), bool, len(found))
        types = np.fromiter(_flat(e.type_ids for e in found), np.int8) if self.types else None
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        tokens = Tokens(np.fromiter(_flat(e.ids for e in found), np.int32), lengths, types)
        if self.words == "given":
            tokens.words = [_first_tokens(e, len(row)) for e, row in zip(found, inputs, strict=True)]
        elif self.words == "found":
            tokens.words, tokens.spans = [], []
            for encoding in found:
                words, spans = _words_of(encoding)
                tokens.words.append(words)
                tokens.spans.append(spans)
        return tokens, cut

    def length_problem(self, length: int) -> str | None:
        """Why a row of so many tokens cannot be labelled; None if it can."""
        if length > self.max_length:
            return f"has {length} tokens, the limit is {self.max_length} (truncation cuts it there)"
        return None if length else "has no token"

    def _encode_slowly(self, inputs: Sequence[Input]) -> tuple[Tokens, np.ndarray]:
        if self.prompt:
            inputs = [f"{self.prompt}{text}" for text in inputs]
        pairs = bool(inputs) and isinstance(inputs[0], tuple)
        texts = [[row[0] for row in inputs], [row[1] for row in inputs]] if pairs else [list(inputs)]
        full = self.tokenizer(*texts, truncation=False, return_token_type_ids=self.types, verbose=False)
        cut = np.zeros(len(inputs), bool)
        if self.truncation:
            cut = np.fromiter((len(ids) > self.max_length for ids in full["input_ids"]), bool, len(inputs))
            full = self.tokenizer(*texts, truncation=True, max_length=self.max_length, return_token_type_ids=self.types)
        ids = full["input_ids"]
        types = np.fromiter(_flat(full["token_type_ids"]), np.int8) if self.types else None
        return Tokens(_numbers(ids), np.fromiter(map(len, ids), np.int64, len(ids)), types), cut


def _flat(rows):
    return itertools.chain.from_iterable(rows)


def _numbers(rows: list[list[int]]) -> np.ndarray:
    return np.fromiter(_flat(rows), np.int32)


def _first_tokens(encoding: Encoding, words: int) -> np.ndarray:
    first = np.full(words, -1, np.int32)
    before = None
    for position, word in enumerate(encoding.word_ids):
        if word is not None and word != before:
            first[word] = position
        before = word
    return first


def _words_of(encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """For each word that the tokenizer finds in a text its first token, (words), and its place, (words, 2)."""
    first: list[int] = []
    spans: list[list[int]] = []
    before = None
    for position, (word, (begin, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        if word is None:
            before = None
        elif word == before:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            first.append(position)
            spans.append([begin, end])
            before = word
    return np.array(first, np.int32), np.array(spans, np.int32).reshape(-1, 2)
