"""How rows are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from fastmux.tables.kinds import INPUT_FORMATS

T = TypeVar("T")

DTYPES = ("float32", "bfloat16", "float16")
#: What becomes of rows that cannot be labelled.
REJECTED = ("keep", "reason", "drop")


@dataclass(frozen=True)
class LabellingSettings:
    """How rows are labelled.

    Attributes:
        column: what is labelled: text, or of a model that labels tokens perhaps a list of words. "text", "sentence",
            "tokens" or the only column, if None.
        pair_column: the second text of a pair.
        is_split_into_words: a model that labels tokens takes text as words between single spaces, and gives each a tag.
        prefix: of the names of the new columns, for inputs that have columns of these names.
        rejected: what becomes of rows that cannot be labelled: "keep" leaves them in their place, with null in the new
            columns; "reason" says why in a further column, ``error``; "drop" leaves them out.
        all_scores: every label's score, not the best one alone.
        truncation: cut rows that are longer than ``max_length``; otherwise they are rejected.
        max_length: tokens of a row; what the model has room for if None.
        copies: slots of a multiplexed model that each row takes (`fastmux.TMuxForSequenceClassification.predict`).
        min_confidence: rows below it go through the fallback model.
        batch_tokens: positions, padding counted, that a pass of the encoder takes at most; 1024 on a CPU, 65536 on a
            GPU if None.
        rows_per_shard: rows that are sorted by length together, written together, and done again after a kill. If None,
            as many as take some ten seconds, fewer at first, at most 32768 (65536 on a GPU). Fewer where they hold more
            than 16 MiB.
        num_workers: processes that tokenise ahead of the model; with 0 a thread does.
        dtype: "float32", "bfloat16" or "float16" of the weights; float32 on a CPU, bfloat16 on a GPU if None.
        device: as for torch; the GPU if there is one, if None.
        torch_compile: compile the model (minutes before the first row).
        input_format: "jsonl", "csv", "tsv", "text" or "parquet"; by the ending of the name if None.
        dataset_name, split: of a data set of the Hugging Face hub.
    """

    column: str | None = None
    pair_column: str | None = None
    is_split_into_words: bool = False
    prefix: str = ""
    rejected: str = "keep"
    all_scores: bool = False
    truncation: bool = False
    max_length: int | None = None
    copies: int = 1
    min_confidence: float | None = None
    batch_tokens: int | None = None
    rows_per_shard: int | None = None
    num_workers: int = 1
    dtype: str | None = None
    device: str | None = None
    torch_compile: bool = False
    input_format: str | None = None
    dataset_name: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_length", 1), ("copies", 1), ("batch_tokens", 1), ("rows_per_shard", 1)):
            check_integer(name, getattr(self, name), least, optional=name != "copies")
        check_integer("num_workers", self.num_workers, 0)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("input_format", self.input_format, tuple(dict.fromkeys(INPUT_FORMATS.values())))
        if self.rejected not in REJECTED:
            raise ValueError(f"rejected is {self.rejected!r}, expected one of {', '.join(map(repr, REJECTED))}")
        check_confidence(self.min_confidence)


def settings_of(kind: type[T], settings: T | None, options: Mapping[str, object], caller: str) -> T:
    """What a function of that name was given: settings, or in place of them the fields of ``kind`` as options.

    Raises:
        ValueError: both were given; an option is no field; a value is out of range.
    """
    if settings is not None:
        if options:
            raise ValueError(f"{', '.join(options)} given beside settings; set it there")
        return settings
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := sorted(set(options) - set(fields)):
        raise ValueError(f"{caller} has no option {', '.join(unknown)}, expected one of {', '.join(fields)}")
    return kind(**options)


def check_integer(name: str, value: object, least: int, optional: bool = False) -> None:
    """Raises ValueError, which names the setting, for what is no integer of at least ``least``."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")


def check_confidence(value: object) -> None:
    """Raises ValueError for what is not None and no probability."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    if value is not None and not known:
        raise ValueError(f"min_confidence is {value!r}, expected a number from 0 to 1")


def check_cascade(fallback: object, min_confidence: float | None) -> None:
    """Raises ValueError for a fallback without a confidence, or the other way round, and for what is no confidence."""
    check_confidence(min_confidence)
    if (fallback is None) != (min_confidence is None):
        raise ValueError("fallback and min_confidence go together, but only one of them was given")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError, which names the setting, for what is not None and not allowed."""
    if value is not None and value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
