"""Choose the class that loads a model. An exported model needs neither torch nor transformers, which import slowly."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from fastmux.labelling.exported import ExportedClassifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.record import is_exported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fastmux.labelling.classifier import Classifier

#: A model, or its name or folder.
Model: TypeAlias = "str | PathLike | PreTrainedModel"
AnyClassifier: TypeAlias = "Classifier | ExportedClassifier"


def class_for(model: Model) -> type[Any]:
    """`ExportedClassifier` for the folder of an exported model, `Classifier` for any other. Nothing is loaded yet."""
    if isinstance(model, (str, PathLike)) and is_exported(model):
        return ExportedClassifier
    from fastmux.labelling.classifier import Classifier

    return Classifier


def model_behind(
    fallback: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    model: AnyClassifier,
    max_length: int,
    placement: Placement,
) -> tuple[AnyClassifier, Engine]:
    """Load the fallback of a model; returns it and its engine.

    Args:
        fallback: The fallback, or its name or folder.
        tokenizer: The tokenizer of a fallback that is given as a model.
        model: The model before it.
        max_length: The most tokens of a row.
        placement: The model's placement. A fallback of the other kind, in torch or exported, has its kind's default.

    Raises:
        ValueError: It has other labels or another tokenizer than the model, too few positions, or cannot be loaded.
    """
    kind = class_for(fallback)
    behind = kind.of(fallback, tokenizer, "fallback")
    check_same_labels(model, behind)
    behind.max_length(max_length, "fallback")
    if kind is not type(model):
        placement = kind.placement(None, None, None, False)
    return behind, behind.engine(placement)


def check_same_labels(model: AnyClassifier, fallback: AnyClassifier) -> None:
    """Raise ValueError for a fallback with other labels or another tokenizer than the model, and for a regression."""
    if model.problem_type == "regression":
        raise ValueError("fallback is given, but the model is a regression, whose output has no probability")
    if fallback.per_token != model.per_token:
        raise ValueError("the fallback labels tokens and the model sequences, or the other way round")
    if fallback.names != model.names:
        raise ValueError(f"the fallback has the labels {fallback.names}, expected the model's {model.names}")
    if fallback.vocabulary() != model.vocabulary():
        raise ValueError("the fallback has another tokenizer than the model, expected the same")
