"""Trained models and their tokenizers by name, with one clear message where there is something wrong."""

from __future__ import annotations

from os import PathLike
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file


def read_pretrained(auto: Any, name: str | PathLike, what: str, **options) -> Any:
    """``auto.from_pretrained(name)``.

    Raises:
        ValueError: there is nothing of that name, or it is damaged.
    """
    try:
        return auto.from_pretrained(name, **options)
    # A damaged file is whatever its reader makes of it: of JSON, of safetensors, of a tokenizer in Rust.
    except Exception as error:
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise ValueError(f"{what} {str(name)!r} cannot be loaded: {kind}{said}") from error


def read_tokenizer(name: str | PathLike) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        ValueError: there is none.
    """
    tokenizer = read_pretrained(AutoTokenizer, name, "tokenizer")
    # Where there is none, transformers makes an empty one of the model's kind.
    files = tokenizer.vocab_files_names.values()
    if not any(cached_file(name, f, _raise_exceptions_for_missing_entries=False) for f in files):
        raise ValueError(f"model {str(name)!r} has no tokenizer beside it, expected one of {', '.join(files)}")
    return tokenizer


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a tokenizer whose tokens the model does not know."""
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} entries, the model's vocabulary {model.config.vocab_size}: "
            "expected the tokenizer that the model was trained with"
        )
