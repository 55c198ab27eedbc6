"""How rows are labelled."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from fastmux.passes.runtimes.record import EXPORTED, PRECISIONS
from fastmux.settings import OneOf, check_fields, integer, number, one_of
from fastmux.tables.kinds import INPUT_FORMATS

#: What may run a model.
RUNTIMES = ("torch", *EXPORTED, "auto")
DTYPES = ("float32", "bfloat16", "float16")
EXECUTIONS = ("captured", "eager")
#: What happens to rows that cannot be labelled.
REJECTED = ("keep", "reason", "drop")


@dataclass(frozen=True)
class RowSettings:
    """How the rows of an input go through a model, whatever it makes of them.

    Attributes:
        column: The column of text. By default it is text, sentence or the only column.
        prefix: Put this before the names of the new columns, for inputs that have columns of these names.
        rejected: What happens to rows that the model cannot take. "keep" leaves them in their place without an answer;
            "reason" also says why in a new column, error; "drop" leaves them out.
        max_length: The most tokens of a row. By default as many as the model has room for.
        batch_tokens: The most positions of one pass of the encoder, padding included. By default 1024 on a CPU and
            65536 on a GPU.
        rows_per_shard: How many rows are sorted by length and written together; a run that was killed does at most so
            many again. By default as many as take some ten seconds, fewer at first and never more than 32768 (65536 on
            a GPU). A shard also ends after 16 MiB of rows.
        num_workers: How many processes tokenise ahead of the model. With 0 a thread does. By default one, and one more
            whenever the model has to wait, up to the cores but one.
        cache_tokens: A folder to keep the tokens of each shard in. A run over the same rows with the same tokenizer and
            the same rows_per_shard takes them from there. By default nothing is kept.
        runtime: What runs the model: torch; onnxruntime on a CPU; ctranslate2 on a CPU, for plain encoders; or auto,
            the fastest of them here that changes no more than 2 % of the answers. By default torch, or what an exported
            model was exported for.
        precision: The precision of the matrices: float32, or int8 outside of torch. By default float32; auto takes any.
        dtype: The dtype of the weights in torch: float32, bfloat16 or float16. By default float32 on a CPU, bfloat16
            on a GPU.
        device: Where the model runs, as in torch: "cpu", "cuda:1". By default the first GPU, if there is one.
        torch_compile: Compile the model with torch.compile, which takes minutes before the first row.
        execution: How passes run in torch on a GPU: captured, small ones as CUDA graphs, launched all at once; or
            eager. By default captured, unless the model is compiled.
        input_format: The format of the input: jsonl, csv, tsv, text or parquet. By default the name's ending tells it.
        dataset_name: The configuration of a data set of the Hugging Face hub.
        split: The split of a data set of the Hugging Face hub.
    """

    column: str | None = None
    prefix: str = ""
    rejected: str = one_of("keep", REJECTED)
    max_length: int | None = integer(None, 1)
    batch_tokens: int | None = integer(None, 1)
    rows_per_shard: int | None = integer(None, 1)
    num_workers: int | None = integer(None, 0)
    cache_tokens: str | PathLike | None = None
    runtime: str | None = one_of(None, RUNTIMES)
    precision: str | None = one_of(None, PRECISIONS)
    dtype: str | None = one_of(None, DTYPES)
    device: str | None = None
    torch_compile: bool = False
    execution: str | None = one_of(None, EXECUTIONS)
    input_format: str | None = one_of(None, tuple(dict.fromkeys(INPUT_FORMATS.values())))
    dataset_name: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class LabellingSettings(RowSettings):
    """How rows are labelled: what `RowSettings` has, and what is about labels.

    Attributes:
        column: The column that is labelled. It holds text, or lists of words for a model that labels tokens. By
            default it is text, sentence, tokens, words or the only column.
        pair_column: The column of the second text, for a model of pairs.
        is_split_into_words: Split text at single spaces into words, each of which gets a tag.
        all_scores: Write the scores of all labels, not only of the best one.
        truncation: Cut rows that are longer than ``max_length``; without it they are rejected.
        copies: How many slots of a multiplexed model each row takes. More are slower and more accurate.
        min_confidence: Rows of which the model is less sure than this go through ``fallback``. By default what
            `fastmux calibrate` has put into the model's folder.
    """

    pair_column: str | None = None
    is_split_into_words: bool = False
    all_scores: bool = False
    truncation: bool = False
    copies: int = integer(1, 1)
    min_confidence: float | None = number(None, 0, 1)


def check_runtime(runtime: str | None, precision: str | None) -> None:
    """Raise ValueError for a runtime or a precision that is not known."""
    for name, value, allowed in (("runtime", runtime, OneOf(RUNTIMES)), ("precision", precision, OneOf(PRECISIONS))):
        if value is not None and value not in allowed:
            raise ValueError(f"{name} is {value!r}, expected {allowed}")
