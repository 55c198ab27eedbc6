"""Text to token ids: packed rows for the retrieval warm-up, single rows for the tasks."""

from __future__ import annotations

from itertools import chain

from datasets import Dataset, Features, Value
from transformers import BatchEncoding, PreTrainedTokenizerBase

from fastmux.modules.retrieval import IGNORE_INDEX

_BATCH = 4096


def pack_rows(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> Dataset:
    """All texts one after the other, cut into rows ``[CLS] tokens [SEP]`` of exactly ``length`` ids, without
    padding.

    The special tokens are the same in every row, so finding them is no retrieval: they have no label (-100).

    Raises:
        ValueError: The texts do not fill one row.
    """
    ids: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(texts[start : start + _BATCH], add_special_tokens=False, verbose=False)["input_ids"]
        ids.extend(chain.from_iterable(batch))
    content = length - 2
    pieces = [ids[start : start + content] for start in range(0, len(ids) - content + 1, content)]
    if not pieces:
        raise ValueError(f"max_length={length}: the text has {len(ids)} tokens, fewer than one row takes")
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    return Dataset.from_dict(
        {
            "input_ids": [[first, *piece, last] for piece in pieces],
            "labels": [[IGNORE_INDEX, *piece, IGNORE_INDEX] for piece in pieces],
        }
    )


def encode_rows(kind: str, tokenizer: PreTrainedTokenizerBase, split: Dataset, length: int) -> Dataset:
    """The rows of a task with that kind of head: `encode_tokens` of "token", `encode_sequences` of any other."""
    return (encode_tokens if kind == "token" else encode_sequences)(tokenizer, split, length)


def encode_sequences(tokenizer: PreTrainedTokenizerBase, split: Dataset, length: int) -> Dataset:
    """Columns ``text``, perhaps ``text_pair``, and ``label`` -> input_ids, attention_mask, labels, cut.

    ``cut`` says whether a row lost tokens because it is longer than ``length``. Pairs have token_type_ids, too, if the
    tokenizer makes them. A label that is a list, of a 0 or 1 for each one that may hold, becomes one of floats.
    """
    texts = [name for name in ("text", "text_pair") if name in split.column_names]
    types = False if len(texts) == 1 else "token_type_ids" in tokenizer.model_input_names

    def encode(batch: dict) -> dict:
        columns = [batch[name] for name in texts]
        coded = tokenizer(*columns, truncation=True, max_length=length, return_token_type_ids=types)
        labels = [list(map(float, label)) if isinstance(label, list) else label for label in batch["label"]]
        return {**coded, "labels": labels, "cut": _cut(coded)}

    return split.map(encode, batched=True, batch_size=_BATCH, remove_columns=split.column_names)


def encode_tokens(tokenizer: PreTrainedTokenizerBase, split: Dataset, length: int) -> Dataset:
    """Columns ``tokens`` and ``tags`` -> input_ids, attention_mask, labels, cut, missed.

    A word's label is at its first subword; its other subwords and the special tokens have -100. A word of which the
    tokenizer makes nothing, such as a lone joiner, is an unknown one. ``cut`` is as in `encode_sequences`; ``missed``
    are the labels of the words that were cut, which are scored all the same.
    """

    def encode(batch: dict) -> dict:
        rows = batch["tokens"]
        whole = tokenizer(rows, is_split_into_words=True, return_token_type_ids=False, verbose=False)
        if any(len(set(whole.word_ids(row)) - {None}) < len(words) for row, words in enumerate(rows)):
            rows = [_all_known(words, set(whole.word_ids(row))) for row, words in enumerate(rows)]
        coded = tokenizer(
            rows, is_split_into_words=True, truncation=True, max_length=length, return_token_type_ids=False
        )
        labels, missed = [], []
        for row, tags in enumerate(batch["tags"]):
            words = coded.word_ids(row)
            starts = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
            labels.append([tags[word] if start else IGNORE_INDEX for word, start in zip(words, starts, strict=True)])
            seen = set(words)
            missed.append([tag for word, tag in enumerate(tags) if word not in seen])
        return {**coded, "labels": labels, "cut": _cut(coded), "missed": missed}

    def _all_known(words: list[str], seen: set[int | None]) -> list[str]:
        return [word if place in seen else tokenizer.unk_token for place, word in enumerate(words)]

    ids = [Value("int64")]
    # Said, not guessed: the first batch may have no row that was cut.
    columns = {"input_ids": ids, "attention_mask": ids, "labels": ids, "cut": Value("bool"), "missed": ids}
    return split.map(
        encode, batched=True, batch_size=_BATCH, remove_columns=split.column_names, features=Features(columns)
    )


def _cut(coded: BatchEncoding) -> list[bool]:
    return [bool(encoding.overflowing) for encoding in coded.encodings]
