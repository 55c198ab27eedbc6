"""A tokenizer trained on a task's own text."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer
from tokenizers.normalizers import Replace, Sequence
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Trains a lower-casing, byte-level BPE tokenizer; the same texts give the same vocabulary in every
    process.

    (The WordPiece trainer of `tokenizers` does not: its ids, and then its ties, follow the order of a hash
    table.)

    Args:
        texts: Training texts, e.g. all of a task's unlabelled text.
        vocab_size: The number of entries, of which 256 are the bytes and five the special tokens; small text may give
            fewer.
        max_length: The tokenizer's ``model_max_length``.
    """
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=True, lowercase=True, unicode_normalizer="nfc")
    # How text is broken into lines says little in the passages used here, and would take a token a line.
    tokenizer.normalizer = Sequence([tokenizer.normalizer, Replace(Regex(r"\s+"), " ")])
    tokenizer.train_from_iterator(
        texts, vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()),
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )
