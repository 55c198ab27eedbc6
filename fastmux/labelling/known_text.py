"""Whether a tokenizer knows the language, or the script, of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # an exported model needs no transformers
    from transformers import PreTrainedTokenizerBase

#: The largest share of tokens that the tokenizer does not know; and the fewest letters of a token, on average, where
#: the vocabulary has whole words. English, cut by an English vocabulary, has four; Russian one.
MOST_UNKNOWN, LEAST_LETTERS = 0.25, 1.5
#: What stands in pieces for a space or for its lack. (The byte-level one counts as a letter.)
_MARKS = "\u0120\u2581#"
#: Where scripts begin that are written without spaces, or in syllables, for which one sign is much.
_SYLLABLES = 0x2E80


def check_known(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for text that the tokenizer does not know, or cuts into single letters: text in another language
    or script than the model's. Another language of the same script may pass.

    Args:
        ids: The token ids of all rows, end to end.

    Example:
        >>> import numpy as np
        >>> from fastmux.labelling.known_text import check_known
        >>> from transformers import BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film", "\u0444", "##\u0438", "##\u043b"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> check_known(np.array(tokenizer("a fine film, fine")["input_ids"][2:]), tokenizer)
        >>> check_known(np.array(tokenizer("\u0444\u0438\u043b")["input_ids"]), tokenizer)
        Traceback (most recent call last):
        ValueError: texts is cut into pieces of 1.0 letters: is it in another language or script than the model's?
    """
    unknown = tokenizer.unk_token_id
    special = [k for k in tokenizer.all_special_ids if k != unknown]
    own = ids[~np.isin(ids, special)]
    if not len(own):
        return
    share = 0.0 if unknown is None else float((own == unknown).mean())
    if share > MOST_UNKNOWN:
        raise ValueError(
            f"texts has {share:.0%} tokens that the tokenizer does not know, expected at most {MOST_UNKNOWN:.0%}: are "
            "they in another language or script than the model's?"
        )
    found, counts = np.unique(own, return_counts=True)
    letters = np.array([_letters(piece) for piece in tokenizer.convert_ids_to_tokens(found.tolist())])
    worded = letters > 0
    if counts[worded].sum() < len(own) / 2 or not _has_words(tokenizer):
        return  # figures, signs, or a script of syllables
    mean = float((letters * counts)[worded].sum() / counts[worded].sum())
    if mean < LEAST_LETTERS:
        raise ValueError(
            f"texts is cut into pieces of {mean:.1f} letters: is it in another language or script than the model's?"
        )


def _letters(piece: str | None) -> int:
    """How many letters a piece of a word has; 0 of one without, or in a script of syllables."""
    letters = [sign for sign in (piece or "").strip(_MARKS) if sign.isalpha()]
    return 0 if any(ord(sign) >= _SYLLABLES for sign in letters) else len(letters)


def _has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the vocabulary has words, and not letters alone."""
    letters = [count for piece in tokenizer.get_vocab() if (count := _letters(piece))]
    return bool(letters) and sum(letters) / len(letters) >= 2
