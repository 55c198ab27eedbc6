"""Load a model for the runtime that is asked for. Only torch needs torch and transformers, which import slowly."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fastmux.files import remove
from fastmux.labelling.exported import RUNTIMES, ExportedClassifier
from fastmux.labelling.fastest import Choice, race, remember, remembered
from fastmux.labelling.kept import Kept
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.processor import has_gpu
from fastmux.passes.runtimes.record import RuntimeRecord, is_exported
from fastmux.passes.tokens import Tokens

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
    execution: str | None = None

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
        if self.runtime == "auto":
            return self._to_be_chosen()
        self._check_no_torch(f"runtime is {self.runtime!r}")
        precision = self.precision or "float32"
        RUNTIMES[self.runtime].check(precision)
        return Placement(dtype=precision, asked=self.batch_tokens, runtime=self.runtime)

    def _to_be_chosen(self) -> Placement:
        if self.dtype is not None or self.torch_compile:
            raise ValueError(
                "runtime is 'auto', which chooses the precision and compiles nothing: dtype and torch_compile are for "
                "torch alone; precision says what it may choose"
            )
        on_cpu = str(self.device).partition(":")[0] == "cpu"
        if not on_cpu and (self.device is not None or has_gpu()):
            found = replace(self, runtime="torch")._in_torch()
            if not found.on_cpu:  # which nothing on the CPU beats
                return found
        if self.execution == "captured":
            raise ValueError("execution is 'captured', as CUDA graphs, but runtime 'auto' finds no GPU here")
        return Placement(dtype=self.precision or "any", asked=self.batch_tokens, runtime="auto")

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
        return torch_placement(self.device, dtype, self.batch_tokens, self.torch_compile, self.execution)

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
        if self.execution == "captured":
            raise ValueError(f"{why} and does not run in torch, but execution is 'captured'")


@dataclass(frozen=True)
class Form:
    """How models of a kind are loaded and exported. What is loaded has the methods of `Classifier`.

    Args:
        in_torch: Loads a model, or takes one in memory with its tokenizer; the last argument says which, for errors.
        exported: Loads the folder that ``export`` wrote.
        export: Writes what is loaded into a folder, for a runtime and a precision.
        name: What an export depends on beside the model's files, for its name.
    """

    in_torch: Callable[[Any, PreTrainedTokenizerBase | None, str], Any]
    exported: Callable[[str | PathLike, PreTrainedTokenizerBase | None, str], Any]
    export: Callable[[Any, Path, str, str], object]
    name: str = ""

    def export_name(self, placement: Placement) -> str:
        """The name under which an export is kept."""
        return f"{placement.runtime}-{placement.dtype}{self.name}"


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded for its runtime; in torch until `settled`, if that is to be chosen.

    Args:
        classifier: The model.
        placement: What runs it.
        given: What it was loaded from.
        tokenizer: The tokenizer that was given with it.
        what: What it is, for errors.
        form: How it was loaded.
        choice: How fast all were that might have run it, if there was a choice.
    """

    classifier: Any
    placement: Placement
    given: Model
    tokenizer: PreTrainedTokenizerBase | None
    what: str
    form: Form
    choice: Choice | None = None

    @property
    def undecided(self) -> bool:
        return self.placement.runtime == "auto"

    def settled(self, tokens: Tokens, own: bool, copies: int = 1) -> Loaded:
        """The model for the runtime that was the fastest on some rows, if it is undecided; the choice is kept.

        Args:
            tokens: The rows.
            own: They are the user's, not made up.
            copies: The slots of a multiplexed model that each row takes.

        Raises:
            ValueError: The model returns NaN, or nothing here runs the precision.
        """
        if not self.undecided:
            return self
        classifier, form = self.classifier, self.form
        kept = _kept(self.given, self.tokenizer) or Kept.of_fingerprint(classifier.fingerprint())
        made: list[Path] = []

        def loaded(placement: Placement) -> Any:
            if placement.runtime == "torch" and placement.dtype == "float32":
                return classifier
            if placement.runtime == "torch":
                # A copy, as the other dtype must not change the one beside which it is timed.
                return replace(classifier, model=copy.deepcopy(classifier.model))
            name = form.export_name(placement)
            if kept.find(name) is None:
                made.append(Path(name))
            return _converted(classifier, kept, placement, self.what, form)

        def engine_of(placement: Placement) -> Engine:
            return loaded(placement).engine(replace(placement, asked=self.placement.asked), copies)

        reference = classifier.engine(Placement(asked=self.placement.asked), copies)
        log.info("timing what may run the %s here, once, on %d rows", self.what, len(tokens.lengths))
        choice = race(reference, tokens, self.placement.dtype, engine_of)
        placement = choice.placement(self.placement)
        for name in made:  # of what is slower, nothing is kept
            if str(name) != form.export_name(placement) and (path := kept.find(str(name))) is not None:
                remove(path)
        remember(kept, self.placement.dtype, own, choice)
        log.info("runtime auto: %s", choice.line())
        return replace(self, classifier=loaded(placement), placement=placement, choice=choice)


def load(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    placement: Placement,
    what: str = "model",
    own: bool = True,
    form: Form | None = None,
) -> Loaded:
    """Load a model for the runtime of its placement, which was asked for with that model.

    For another runtime than torch, a model of Hugging Face is exported the first time, and kept (`Kept`).

    Args:
        own: Of a runtime that is to be chosen: only a choice that was made on the user's own rows will do.
        form: How it is loaded; as a classifier if None.

    Raises:
        ValueError: It is no classifier, cannot be loaded, or is not for that runtime.
    """
    form = form or CLASSIFIERS
    if exported := _is_exported(model):
        return Loaded(form.exported(exported, tokenizer, what), placement, model, tokenizer, what, form)
    kept = None if placement.runtime == "torch" else _kept(model, tokenizer)
    classifier: Any = None
    if kept is None:
        classifier = form.in_torch(model, tokenizer, what)
        if placement.runtime != "torch":
            kept = _kept(model, tokenizer) or Kept.of_fingerprint(classifier.fingerprint())
    choice = remembered(kept, placement.dtype, own) if placement.runtime == "auto" else None
    if choice is not None:
        placement = choice.placement(placement)
        log.info("runtime auto, as found before: %s", choice.line(brief=True))
    if placement.runtime in ("torch", "auto"):
        classifier = classifier or form.in_torch(model, tokenizer, what)
    else:
        found = _intact(kept.find(form.export_name(placement)), form)
        if found is None:
            found = _converted(classifier or form.in_torch(model, tokenizer, what), kept, placement, what, form)
        classifier = found
    return Loaded(classifier, placement, model, tokenizer, what, form, choice)


def _kept(model: Model, tokenizer: PreTrainedTokenizerBase | None) -> Kept | None:
    """What is kept of a model in files; None if it is in memory, or comes with a tokenizer, perhaps another one."""
    return Kept.of_files(model) if isinstance(model, (str, PathLike)) and tokenizer is None else None


def _classifier_in_torch(model: Model, tokenizer: PreTrainedTokenizerBase | None, what: str) -> Classifier:
    from fastmux.labelling.classifier import Classifier

    return Classifier.of(model, tokenizer, what)


def _export_classifier(classifier: Classifier, target: Path, runtime: str, precision: str) -> None:
    from fastmux.exporting.export import export

    export(classifier.model, target, tokenizer=classifier.tokenizer, runtime=runtime, precision=precision)


CLASSIFIERS = Form(_classifier_in_torch, ExportedClassifier.of, _export_classifier)


def _converted(classifier: Any, kept: Kept, placement: Placement, what: str, form: Form) -> Any:
    """The model for another runtime, exported unless that was done before."""
    with kept.writing(form.export_name(placement)) as target:
        if (found := _intact(target, form)) is not None:
            return found
        log.info("exporting the %s for %s in %s, once: %s", what, placement.runtime, placement.dtype, target)
        remove(target)
        try:
            form.export(classifier, target, placement.runtime, placement.dtype)
        except ValueError as error:
            raise ValueError(f"{what} cannot run in {placement.runtime}: {error}") from error
        return form.exported(target, None, what)


def _intact(folder: Path | None, form: Form) -> Any:
    """What is kept there; None if it is damaged, of another version, or not there."""
    try:
        return None if folder is None else form.exported(folder, None, "model")
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
    own: bool = True,
) -> Loaded:
    """Load the fallback of a model.

    Args:
        fallback: The fallback, or its name or folder.
        tokenizer: The tokenizer of a fallback that is given as a model.
        model: The model before it.
        max_length: The most tokens of a row.
        asked: What was said of the model. It holds for the fallback as well, unless one of them alone is exported.
        own: As for `load`.

    Raises:
        ValueError: It has other labels or another tokenizer than the model, too few positions, or cannot be loaded.
    """
    if _is_exported(fallback) or (asked.runtime is None and isinstance(model, ExportedClassifier)):
        asked = Asked()
    behind = load(fallback, tokenizer, asked.placement(fallback), "fallback", own)
    check_same_labels(model, behind.classifier)
    behind.classifier.max_length(max_length, "fallback")
    return behind


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
