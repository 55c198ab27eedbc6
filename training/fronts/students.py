"""The students of a front: each learns once what its original says, and is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from fastmux.distillation.distil import distil, distillation_arguments
from fastmux.distillation.narrow import narrowed_for
from fastmux.distillation.settings import WIDTHS, ConversionSettings
from fastmux.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from fastmux.files import read_json, remove, replacing, write_json
from fastmux.training.fronts.candidates import Candidate, settings_of
from fastmux.training.fronts.masked import learn_masked_words

SECONDS = "seconds.json"


@dataclass
class Students:
    """Trains those that are not there yet.

    Attributes:
        folder: It gets a subfolder for each student, and one for what the original says.
        kind: The task's kind of head, or "embedding".
        original: What they are made of and learn from.
        tokenizer: Pads the rows.
        rows: What models take, and a column ``length``.
        first_only: The states of the first tokens alone are learnt, or none.
        settings: How they are distilled.
        precision: Further arguments of `transformers.TrainingArguments`.
        load: Loads a student's folder.
        save: Saves a student and its tokenizer to a folder.
    """

    folder: Path
    kind: str
    original: Any
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    first_only: bool
    settings: ConversionSettings
    precision: dict[str, bool]
    load: Callable[[Path], PreTrainedModel]
    save: Callable[[Any, Path], None]

    def student(self, candidate: Candidate, seed: int) -> PreTrainedModel:
        """The candidate, trained with this seed."""
        folder = self.place(candidate.name, seed)
        if not (folder / SECONDS).is_file():
            set_seed(seed)
            widths = {name: getattr(candidate, name) for name in WIDTHS}
            source = narrowed_for(self.original, self.rows, self.tokenizer, **widths)
            student = candidate.make(source, self.kind)
            if candidate.start is not None:
                start = self.load(self.place(candidate.start, seed) / "model").state_dict()
                own = {name: t for name, t in start.items() if not name.endswith("encoder.signs")}
                student.load_state_dict(own, strict=False)
            settings = settings_of(candidate, self.settings, seed)
            if candidate.masked_epochs:
                masking = {"num_train_epochs": candidate.masked_epochs, "save_strategy": "no", **self.precision}
                # The collator, and not the model, is asked which columns there are.
                arguments = distillation_arguments(folder / "masked", settings, masking)
                learn_masked_words(student, self.tokenizer, self.rows, arguments)
            arguments = distillation_arguments(folder / "training", settings, self.precision)
            given = (student, self.tokenizer, self.rows, self._teacher, arguments)
            student, _, seconds = distil(*given, state_weight=settings.state_weight)
            with replacing(folder / "model") as temporary:
                self.save(student, temporary)
            write_json(folder / SECONDS, seconds)
            remove(folder / "training")
        return self.load(folder / "model")

    def place(self, name: str, seed: int) -> Path:
        """The folder of a student."""
        return self.folder / (name if seed == self.settings.seed else f"{name}, seed {seed}")

    def seconds(self, name: str) -> float | None:
        """How long the first seed's training of a model took, as far as this folder knows."""
        path = self.folder / name / SECONDS
        return read_json(path) if path.is_file() else None

    @cached_property
    def _teacher(self) -> TeacherOutputs:
        digest = hashlib.sha256(repr([p.sum().item() for p in self.original.parameters()]).encode()).hexdigest()
        given = (self.original, self.tokenizer, self.rows, self.folder / "teacher")
        return compute_teacher_outputs(*given, fingerprint=digest, first_only=self.first_only)
