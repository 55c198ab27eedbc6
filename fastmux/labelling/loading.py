"""Load a model for the runtime that is asked for. Only torch needs torch and transformers, which import slowly."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fastmux.files import remove
from fastmux.labelling.exported import RUNTIMES, ExportedClassifier
from fastmux.labelling.kept import Kept
from fastmux.labelling.placement import Placement
from fastmux.passes.runtimes.record import RuntimeRecord, is_exported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fastmux.labelling.classifier import Classifier

log = logging.getLogger(__name__)

#: A model, or its name or folder.
Model: TypeAlias = "str | PathLike | PreTrainedModel"
AnyClassifier: TypeAlias = "Classifier | ExportedClassifier"


@dataclass(frozen=True)
class Asked:
    """What was said of how a model is to run; see `fastmux.LabellingSettings`."""

    runtime: str | None = None
    precision: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    torch_compile: bool = False

    @classmethod
    def of(cls, settings: object) -> Asked:
        """From settings that have these fields."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    def placement(self, model: Model) -> Placement:
        """Where and how a model runs, as asked for, or as is usual here. It is not loaded.

        Raises:
            ValueError: There is no such device here; the options contradict one another or the model's folder; or this
                processor cannot run the precision.
            ImportError: The runtime is not installed.
        """
        if exported := _is_exported(model):
            return self._of_folder(Path(exported))
        if self.runtime in (None, "torch"):
            return self._in_torch()
        self._check_no_torch(f"runtime is {self.runtime!r}")
        precision = self.precision or "float32"
        RUNTIMES[self.runtime].check(precision)
        return Placement(dtype=precision, asked=self.batch_tokens, runtime=self.runtime)

    def _in_torch(self) -> Placement:
        from fastmux.labelling.devices import torch_placement

        dtype = self.dtype
        if self.precision is not None:
            if self.precision != "float32":
                others = " or ".join(map(repr, RUNTIMES))
                raise ValueError(
                    f"precision is {self.precision!r}, which torch does not run; runtime is "
                    f"{self.runtime or 'torch'!r}, expected {others}"
                )
            if dtype not in (None, self.precision):
                raise ValueError(f"precision is {self.precision!r} and dtype {dtype!r}; give one of them")
            dtype = self.precision
        return torch_placement(self.device, dtype, self.batch_tokens, self.torch_compile)

    def _of_folder(self, folder: Path) -> Placement:
        self._check_no_torch("the model is exported")
        try:
            record = RuntimeRecord.read(folder)
        except ValueError:  # loading it will say so
            return Placement()
        for name in ("runtime", "precision"):
            asked, there = getattr(self, name), getattr(record, name)
            if asked not in (None, "auto", there):
                raise ValueError(f"{name} is {asked!r}, but model {str(folder)!r} was exported with {name}={there!r}")
        return Placement(dtype=record.precision, asked=self.batch_tokens, runtime=record.runtime)

    def _check_no_torch(self, why: str) -> None:
        """Raise ValueError for an option that only a model in torch has."""
        if self.device is not None and str(self.device).partition(":")[0] != "cpu":
            raise ValueError(f"{why} and runs on the CPU: device is {str(self.device)!r}, expected 'cpu'")
        if self.dtype is not None:
            raise ValueError(f"{why} and does not run in torch: dtype is {self.dtype!r}; precision takes its place")
        if self.torch_compile:
            raise ValueError(f"{why} and does not run in torch, but torch_compile is given")


def load(
    model: Model, tokenizer: PreTrainedTokenizerBase | None, placement: Placement, what: str = "model"
) -> AnyClassifier:
    """Load a model for the runtime of its placement, which was asked for with that model.

    For another runtime than torch, a model of Hugging Face is exported the first time, and kept (`Kept`).

    Raises:
        ValueError: It is no classifier, cannot be loaded, or is not for that runtime.
    """
    if exported := _is_exported(model):
        return ExportedClassifier.of(exported, tokenizer, what)
    if placement.runtime == "torch":
        return _in_torch(model, tokenizer, what)
    return _converted(model, tokenizer, placement, what)


def _in_torch(model: Model, tokenizer: PreTrainedTokenizerBase | None, what: str) -> Classifier:
    from fastmux.labelling.classifier import Classifier

    return Classifier.of(model, tokenizer, what)


def _converted(
    model: Model, tokenizer: PreTrainedTokenizerBase | None, placement: Placement, what: str
) -> ExportedClassifier:
    """The model for another runtime, exported unless that was done before."""
    name = f"{placement.runtime}-{placement.dtype}"
    # A tokenizer that is given may be another one than lies beside the model.
    kept = Kept.of_files(model) if isinstance(model, (str, PathLike)) and tokenizer is None else None
    found = None if kept is None else _intact(kept.find(name))
    if found is not None:
        return found
    classifier = _in_torch(model, tokenizer, what)
    if kept is None and tokenizer is None:
        kept = Kept.of_files(model)
    kept = kept or Kept.of_fingerprint(classifier.fingerprint())
    with kept.writing(name) as target:
        found = _intact(target)  # as another process has left it
        return found or _exported(classifier, target, placement, what)


def _exported(classifier: Classifier, target: Path, placement: Placement, what: str) -> ExportedClassifier:
    from fastmux.exporting.export import export

    log.info("exporting the %s for %s in %s, once: %s", what, placement.runtime, placement.dtype, target)
    remove(target)
    try:
        export(
            classifier.model,
            target,
            tokenizer=classifier.tokenizer,
            runtime=placement.runtime,
            precision=placement.dtype,
        )
    except ValueError as error:
        raise ValueError(f"{what} cannot run in {placement.runtime}: {error}") from error
    return ExportedClassifier.of(target, None, what)


def _intact(folder: Path | None) -> ExportedClassifier | None:
    """What is kept there; None if it is damaged, of another version, or not there."""
    try:
        return None if folder is None else ExportedClassifier.of(folder)
    except ValueError:
        return None


def _is_exported(model: Model) -> str | PathLike | None:
    """The folder, if it is one of an exported model."""
    return model if isinstance(model, (str, PathLike)) and is_exported(model) else None


def load_behind(
    fallback: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    model: AnyClassifier,
    max_length: int,
    asked: Asked,
) -> tuple[AnyClassifier, Placement]:
    """Load the fallback of a model; returns it and its placement.

    Args:
        fallback: The fallback, or its name or folder.
        tokenizer: The tokenizer of a fallback that is given as a model.
        model: The model before it.
        max_length: The most tokens of a row.
        asked: What was said of the model. It holds for the fallback as well, unless one of them alone is exported.

    Raises:
        ValueError: It has other labels or another tokenizer than the model, too few positions, or cannot be loaded.
    """
    if _is_exported(fallback) or (asked.runtime is None and isinstance(model, ExportedClassifier)):
        asked = Asked()
    placement = asked.placement(fallback)
    behind = load(fallback, tokenizer, placement, "fallback")
    check_same_labels(model, behind)
    behind.max_length(max_length, "fallback")
    return behind, placement


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
