"""Which class loads a model: an exported one needs neither torch nor transformers, and they take seconds to import."""

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
    """`ExportedClassifier` for the folder of an exported model, `Classifier` for any other; nothing is loaded yet."""
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
    """The fallback of a model, loaded, and what runs it.

    Args:
        max_length: The tokens of a row.
        placement: The model's. A fallback of the other kind, in torch or exported, runs where its kind usually does.

    Raises:
        ValueError: It has other labels or tokens than the model, or less room, or cannot be loaded.
    """
    kind = class_for(fallback)
    behind = kind.of(fallback, tokenizer, "fallback")
    check_same_labels(model, behind)
    behind.max_length(max_length, "fallback")
    if kind is not type(model):
        placement = kind.placement(None, None, None, False)
    return behind, behind.engine(placement)


def check_same_labels(model: AnyClassifier, fallback: AnyClassifier) -> None:
    """Raises ValueError for a fallback that has other labels or tokens than the model before it, or a regression."""
    if model.problem_type == "regression":
        raise ValueError("fallback is given, but the model is a regression, whose output says not how sure it is")
    if fallback.per_token != model.per_token:
        raise ValueError("the fallback labels tokens and the model sequences, or the other way round")
    if fallback.names != model.names:
        raise ValueError(f"the fallback has the labels {fallback.names}, expected the model's {model.names}")
    if fallback.vocabulary() != model.vocabulary():
        raise ValueError("the fallback has another tokenizer than the model, expected the same")
