"""Trained models as users run them: through the library's engine; and beside it a plain forward of Hugging Face's."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.labelling.classifier import Classifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens


def engine_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, copies: int = 1) -> Engine:
    """What runs a classifier of rows or tokens in `fastmux.predict`, in float32 and on the model's device."""
    per_token = type(model).__name__.endswith("ForTokenClassification")
    placement = Placement(str(model.device))
    return Classifier(model, tokenizer, per_token).engine(placement, copies)


def tokens_of(rows) -> Tokens:
    """The rows of a data set with a column ``input_ids``, and perhaps ``token_type_ids``."""
    return Tokens.of_rows(rows["input_ids"], rows["token_type_ids"] if "token_type_ids" in rows.column_names else None)


def shuffled_plan(engine: Engine, lengths: np.ndarray, *seed: int) -> list[np.ndarray]:
    """The engine's passes with other groups: of rows of like length, chance says which come together."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[batch] for batch in engine.plan(lengths[order])]


def plain_forward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    """All rows as without this library: 32 a batch in the order of the file, padded to the longest of their batch."""
    types = Classifier(model, tokenizer, False).takes_types()
    TorchRuntime(model, tokenizer.pad_token_id, takes_types=types).plain_forward(tokens)
