"""A tokenizer of whole words, for the tiny models of the tests."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import BertTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_tokenizer(words: Iterable[str]) -> BertTokenizerFast:
    """BERT's tokenizer; its tokens are `SPECIAL`, from 0, and behind them the words."""
    return BertTokenizerFast(vocab={word: place for place, word in enumerate([*SPECIAL, *words])})
