"""The models of a front: the original, and the candidates, each of which learns once what it says and is kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from fastmux.distillation.distil import distil, distillation_arguments
from fastmux.distillation.narrow import narrowed_for
from fastmux.distillation.settings import WIDTHS, ConversionSettings
from fastmux.distillation.speed import engine_of
from fastmux.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from fastmux.files import changes, read_json, remove, replacing, write_json
from fastmux.passes.engine import Engine
from fastmux.searching.forms import INT8, exported, in_torch, why_not_exported
from fastmux.training.fronts.candidates import ORIGINAL, Candidate, settings_of
from fastmux.training.fronts.masked import learn_masked_words
from fastmux.training.fronts.measure import Contestant
from fastmux.training.starts import start_head

SECONDS, ENTRY, TEACHER = "seconds.json", "entry.json", "teacher"
#: How the names of tensors end of which there is one for each of the N.
_OF_SLOTS = ("encoder.signs", "multiplexer.transforms", "prefix_tokens.weight")
#: The program's arguments that are settings of a conversion.
_SHARED = ("max_length", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "state_weight", "seed")


class Models(ABC):
    """Trains what is not there yet.

    Args:
        options: The program's arguments, see `fastmux.training.fronts.program.FrontSettings`.
        folder: It gets a subfolder for each model, and one for what the original says.

    Attributes:
        kind: The task's kind of head, or "embedding".
        original: What students are made of and learn from.
        tokenizer: Pads the rows.
        rows: What models take, and a column ``length``.
        first_only: The states of the first tokens alone are learnt, or none.
    """

    kind: str
    original: Any
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    first_only: bool

    def __init__(self, options: Any, folder: Path):
        self.options, self.folder, self.precision = options, folder, {"bf16": options.bf16}
        self.settings = ConversionSettings(**{k: v for k, v in vars(options).items() if k in _SHARED})

    @abstractmethod
    def load(self, folder: Path) -> PreTrainedModel:
        """Loads a student's folder."""

    @abstractmethod
    def save(self, student: Any, folder: Path) -> None:
        """Saves a student and its tokenizer to a folder."""

    @staticmethod
    def entry(candidate: Candidate) -> dict:
        """What makes a candidate what it is, as JSON has it."""
        own = {name: value for name, value in asdict(candidate).items() if name not in ("int8", "cascade")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}

    def check(self, candidates: Sequence[Candidate]) -> None:
        """Raise ValueError for a candidate whose folder holds one of another entry."""
        for candidate in candidates:
            path, now = self._place(candidate.name, self.settings.seed) / ENTRY, self.entry(candidate)
            was = read_json(path) if path.is_file() else now
            if changed := changes(was, now, {**was, **now}):
                raise ValueError(f"{path.parent} is of another {candidate.name}: {changed}. Give it another name")

    def trained(self, candidate: Candidate) -> list[PreTrainedModel]:
        """The candidate, trained; of several seeds one each."""
        return [self.student(candidate, self.options.seed)]

    def contestants(self, candidates: Sequence[Candidate]) -> dict[str, Contestant]:
        """The original and all candidates, trained, by name; each that is wanted in int8, too, behind its own."""
        # What stands behind a cascade in 8 bits has 8 bits.
        small = self.kind == "embedding" or any(candidate.int8 for candidate in candidates)
        found = self.forms(ORIGINAL, [self.original], small, lever=ORIGINAL)
        for candidate in candidates:
            print(f"== {candidate.name}", flush=True)
            models = self.trained(candidate)
            multiplexed = candidate.multiplexed or getattr(models[0].config, "num_instances", 1) > 1
            options = {"multiplexed": multiplexed, "cascade": candidate.cascade, "lever": candidate.lever}
            found |= self.forms(candidate.name, models, candidate.int8, **options)
        return found

    def forms(self, name: str, models: list[PreTrainedModel], int8: bool, **options: Any) -> dict[str, Contestant]:
        """A model of one or several seeds as it is measured, by name: in float32 and, if asked for, in 8 bits."""
        seconds = self.folder / name / SECONDS
        own = Contestant(
            [engine_of(model, self.tokenizer) for model in models],
            parameters=sum(p.numel() for p in models[0].parameters()),
            seconds=read_json(seconds) if seconds.is_file() else None,
            **options,
        )
        if not int8:
            return {name: own}
        engines = [self._in_8_bits(name, number, model) for number, model in enumerate(models)]
        return {name: own, f"{name}, int8": replace(own, engines=engines, precision=INT8)}

    def _in_8_bits(self, name: str, number: int, model: PreTrainedModel) -> Engine:
        """What runs a model with matrices of 8 bits.

        Raises:
            ValueError: This machine has no 8 bits, or the model cannot be exported.
        """
        if (reason := why_not_exported("cpu")) is not None:
            raise ValueError(f"{name}: int8 is true, but {reason}")
        folder = self.folder / "int8" / (f"{name}, {number}" if number else name)
        remove(folder)  # the model may have been trained anew
        return exported(in_torch(name, name, model, self.tokenizer), model, self.tokenizer, INT8, folder).engine

    def student(self, candidate: Candidate, seed: int) -> PreTrainedModel:
        """The candidate, distilled with this seed."""
        folder = self._place(candidate.name, seed)
        if not (folder / SECONDS).is_file():
            student = self.untrained(candidate, seed)
            if candidate.start is not None:
                start = self.load(self._place(candidate.start, seed) / "model").state_dict()
                own = {name: t for name, t in start.items() if not name.endswith(_OF_SLOTS)}
                student.load_state_dict(own, strict=False)
            settings = settings_of(candidate, self.settings, seed)
            if candidate.masked_epochs:
                masking = {"num_train_epochs": candidate.masked_epochs, "save_strategy": "no", **self.precision}
                # The collator, and not the model, is asked which columns there are.
                arguments = distillation_arguments(folder / "masked", settings, masking)
                learn_masked_words(student, self.tokenizer, self.rows, arguments)
            arguments = distillation_arguments(folder / "training", settings, self.precision)
            given = (student, self.tokenizer, self.rows, self.teacher, arguments)
            student, _, seconds = distil(*given, state_weight=settings.state_weight)
            with replacing(folder / "model") as temporary:
                self.save(student, temporary)
            write_json(folder / ENTRY, self.entry(candidate))
            write_json(folder / SECONDS, seconds)
            remove(folder / "training")
        return self.load(folder / "model")

    def untrained(self, candidate: Candidate, seed: int) -> PreTrainedModel:
        """The candidate as it begins, with this seed: the original's weights, and signs and new layers drawn."""
        set_seed(seed)
        widths = {name: getattr(candidate, name) for name in WIDTHS}
        source = narrowed_for(self.original, self.rows, self.tokenizer, **widths)
        student = candidate.make(source, self.kind)
        if candidate.demultiplexer is not None:
            start_head(student.classifier, self.teacher)
        return student

    def _place(self, name: str, seed: int) -> Path:
        """The folder of a student."""
        return self.folder / (name if seed == self.settings.seed else f"{name}, seed {seed}")

    @cached_property
    def teacher(self) -> TeacherOutputs:
        """What the original says of all rows, computed once for all students."""
        given = (self.original, self.tokenizer, self.rows, self.folder / TEACHER)
        return compute_teacher_outputs(*given, fingerprint=self.fingerprint(self.rows), first_only=self.first_only)

    def fingerprint(self, rows: Dataset) -> str:
        """A digest of the original's weights, bit by bit, and of rows: the same on every machine."""
        digest = hashlib.sha256()
        for p in self.original.parameters():
            digest.update(p.detach().cpu().flatten().view(torch.uint8).numpy())
        digest.update(np.concatenate([*map(np.asarray, rows["input_ids"]), rows["length"]]).astype(np.int64))
        return digest.hexdigest()[:16]
