"""Loading trained models and tokenizers by name, with one clear message if that fails."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file


def read_pretrained(auto: Any, name: str | PathLike, what: str, **options) -> Any:
    """Returns ``auto.from_pretrained(name)``.

    Args:
        auto: The class that loads it, e.g. ``AutoTokenizer``.
        name: A folder, or a name on the Hugging Face hub.
        what: What is loaded, for the error message: "model" or "tokenizer".
        options: Further arguments of ``from_pretrained``.

    Raises:
        ValueError: There is nothing of that name, or it is damaged.
    """
    config_file = auto is AutoConfig and Path(name).is_file()
    if not config_file and (missing := _missing(name)) is not None:
        raise ValueError(f"{what} {str(name)!r} cannot be loaded: {missing}")
    try:
        return auto.from_pretrained(name, **options)
    # Readers of JSON, of safetensors and of tokenizers raise errors of many types for a damaged file.
    except Exception as error:
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        where = "" if Path(name).is_dir() else "there is no folder of that name, and from the hub: "
        raise ValueError(f"{what} {str(name)!r} cannot be loaded: {where}{kind}{said}") from error


def _missing(name: str | PathLike) -> str | None:
    """Says why a name is neither a folder nor a possible name on the hub; None if it is one of them."""
    path, text = Path(name), str(name)
    if text and path.is_dir():
        return None if any(path.iterdir()) else "the folder is empty"
    if text and path.exists():
        return "it is a file, expected a folder, or a name on the Hugging Face hub"
    if "://" in text:
        return "it is an address, expected a folder, or a name on the Hugging Face hub, such as bert-base-uncased"
    # A name on the hub has one slash at most.
    if isinstance(name, PathLike) or not text or text[0] in "./~" or text.count("/") > 1:
        return "there is no such folder"
    return None


def read_tokenizer(name: str | PathLike, **hub) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that is stored with a model; ``hub`` may have its ``subfolder``.

    Raises:
        ValueError: There is none.
    """
    tokenizer = read_pretrained(AutoTokenizer, name, "tokenizer", **hub)
    # Without a tokenizer's files, transformers builds an empty one of the model's kind.
    files = tokenizer.vocab_files_names.values()
    if not any(cached_file(name, f, _raise_exceptions_for_missing_entries=False, **hub) for f in files):
        raise ValueError(f"model {str(name)!r} has no tokenizer beside it, expected one of {', '.join(files)}")
    return tokenizer


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError if the tokenizer has tokens that the model does not know."""
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} entries, the model's vocabulary {model.config.vocab_size}: "
            "expected the tokenizer that the model was trained with"
        )
