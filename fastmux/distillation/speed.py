"""Measure how fast a converted model is, beside its original run the same way and as Hugging Face runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.timer import Rate, rates
from fastmux.passes.tokens import Tokens

#: The names of what `measure_speed` compares.
CONVERTED, ORIGINAL, FORWARD = "converted", "original", "forward"
REPEATS = 5


def measure_speed(
    converted: PreTrainedModel,
    original: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    on_turn: Callable[[], None] = lambda: None,
    others: Mapping[str, PreTrainedModel] | None = None,
) -> dict[str, Rate]:
    """The rows a second of three ways to answer the same rows, in turns. Tokenising is not timed.

    Args:
        rows: A data set with ``input_ids``, perhaps ``token_type_ids``.
        on_turn: Called after each of (3 + ``others``) (`REPEATS` + 1) calls.
        others: Further models by name, which run as the converted one does.

    Returns:
        By name: "converted" and "original", both through the engine that `fastmux.predict` uses, and "forward", the
        original without this library (`TorchRuntime.plain_forward`); and the others.
    """
    tokens = tokens_of(rows)
    calls: dict[str, Callable[[], object]] = {
        CONVERTED: partial(engine_of(converted, tokenizer).run, tokens),
        ORIGINAL: partial(engine_of(original, tokenizer).run, tokens),
        FORWARD: partial(plain_forward, original, tokenizer, tokens),
    }
    calls |= {name: partial(engine_of(model, tokenizer).run, tokens) for name, model in (others or {}).items()}
    return rates(calls, len(rows), repeats=REPEATS, on_turn=on_turn)


def engine_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, copies: int = 1) -> Engine:
    """What runs a model in `fastmux.predict`, in float32 and on the model's device; an encoder without a head, too."""
    name, placement = type(model).__name__, Placement(str(model.device))
    if isinstance(model, EmbeddingModel):
        return Vectorizer(model, tokenizer).engine(placement, copies)
    if not name.endswith("Classification"):
        return Engine(_runtime(model, tokenizer), placement.batch_tokens, copies, placement.pass_tokens)
    return Classifier(model, tokenizer, name.endswith("ForTokenClassification")).engine(placement, copies)


def tokens_of(rows: Dataset) -> Tokens:
    """The rows of a data set with a column ``input_ids``, and perhaps ``token_type_ids``."""
    return Tokens.of_rows(rows["input_ids"], rows["token_type_ids"] if "token_type_ids" in rows.column_names else None)


def plain_forward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    """All rows as without this library; see `TorchRuntime.plain_forward`."""
    _runtime(model, tokenizer).plain_forward(tokens)


def _runtime(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TorchRuntime:
    embeds = isinstance(model, EmbeddingModel)
    types = (Vectorizer(model, tokenizer) if embeds else Classifier(model, tokenizer, False)).takes_types()
    return TorchRuntime(model, tokenizer.pad_token_id, takes_types=types)
