"""The models of a front, trained or read: the original, and every candidate."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from fastmux.distillation.distil import precision
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.speed import engine_of, plain_forward
from fastmux.files import remove, write_json
from fastmux.passes.engine import Engine
from fastmux.searching.forms import INT8, exported, in_torch, why_not_exported
from fastmux.training.features import encode_sequences, encode_tokens
from fastmux.training.fronts.candidates import ORIGINAL, Candidate
from fastmux.training.fronts.measure import Contestant, Measurement, Point
from fastmux.training.fronts.students import SECONDS, Students
from fastmux.training.metrics import scores_of
from fastmux.training.models import head_class, label_options
from fastmux.training.stages import Stage
from fastmux.training.tasks.base import Task


class FrontModels:
    """Trains what is not there yet, and measures.

    Args:
        options: The program's arguments, see `fastmux.training.front.FrontOptions`.
        task: The task to train on and to score.
        folder: It gets a subfolder for each model.
        settings: How candidates are distilled.

    Raises:
        ValueError: Bad data, or a split that the task lacks.
    """

    def __init__(self, options, task: Task, folder: Path, settings: ConversionSettings):
        self.options, self.task, self.folder, self.settings = options, task, folder, settings
        # Heads read the first position: whatever the tokenizer was used for before, padding comes last.
        self.tokenizer = AutoTokenizer.from_pretrained(options.encoder, padding_side="right")
        data = task.checked(options.data_dir)
        self.labels = data.labels
        split = options.split or list(data.evaluation)[-1]
        if split not in data.evaluation:
            raise ValueError(f"--split {split!r}: {task.name} has {', '.join(data.evaluation)}")
        self.train = self._rows(data.train, options.max_train_rows)
        self.evaluation = self._rows(data.evaluation[split], options.max_evaluation_rows)
        self.metric = scores_of(task.kind, task.metric, self.labels, task.tag_scheme)
        self._precision = precision(options.bf16)

    def counts(self) -> dict[str, int]:
        """Rows, by what they are for."""
        return {"train": len(self.train), "evaluation": len(self.evaluation)}

    def contestants(self, candidates: list[Candidate]) -> dict[str, Contestant]:
        """The original and all candidates, trained, by name; those that are wanted in int8, too, behind their own."""
        found = {ORIGINAL: self._contestant([self.original], seconds=self._students.seconds(ORIGINAL))}
        for candidate in candidates:
            print(f"== {candidate.name}", flush=True)
            seeds = range(self.options.seed, self.options.seed + self.options.seeds)
            models = [self._model(candidate, seed) for seed in (seeds if candidate.has_seeds else seeds[:1])]
            config = models[0].config
            multiplexed = getattr(config, "num_instances", 1) > 1
            options = {"multiplexed": multiplexed, "cascade": candidate.cascade}
            seconds = self._students.seconds(candidate.name)
            found[candidate.name] = self._contestant(models, seconds=seconds, **options)
            if candidate.int8:
                engines = [self._in_8_bits(candidate.name, k, model) for k, model in enumerate(models)]
                found[f"{candidate.name}, int8"] = replace(found[candidate.name], engines=engines, seconds=None)
        return found

    def _contestant(self, models: list[PreTrainedModel], **more) -> Contestant:
        parameters = sum(p.numel() for p in models[0].parameters())
        return Contestant([engine_of(model, self.tokenizer) for model in models], parameters, **more)

    def _in_8_bits(self, name: str, number: int, model: PreTrainedModel) -> Engine:
        """What runs a model with matrices of 8 bits.

        Raises:
            ValueError: This machine has no 8 bits, or the model cannot be exported.
        """
        if (reason := why_not_exported("cpu")) is not None:
            raise ValueError(f"{name}: int8 is true, but {reason}")
        folder = self.folder / "int8" / f"{name}, {number}"
        remove(folder)  # the model may have been trained anew
        return exported(in_torch(name, name, model, self.tokenizer), model, self.tokenizer, INT8, folder).engine

    def measure(self, contestants: dict[str, Contestant]) -> list[Point]:
        """See `fastmux.training.fronts.measure.Measurement`."""
        options = self.options
        measure = Measurement(
            self.evaluation,
            self.metric,
            self.task.metric,
            groupings=options.groupings,
            rate_rows=options.max_rate_rows,
            target_agreement=options.target_agreement,
            seed=options.seed,
            clock=options.clock,
        )
        return measure(contestants, partial(plain_forward, self.original, self.tokenizer))

    @cached_property
    def original(self) -> PreTrainedModel:
        """The encoder with its head, trained on the task's labels."""
        if self.options.original is not None:
            return self._load("AutoModel", self.options.original)
        print(f"== {ORIGINAL}", flush=True)
        return self._labelled(ORIGINAL, lambda: copy.deepcopy(self._untrained), "AutoModel")

    def _load(self, family: str, folder: str | Path) -> PreTrainedModel:
        return head_class(family, self.task.kind).from_pretrained(folder).eval()

    @cached_property
    def _untrained(self) -> PreTrainedModel:
        set_seed(self.options.seed)
        head = head_class("AutoModel", self.task.kind)
        return head.from_pretrained(self.options.encoder, **label_options(self.labels, self.task.kind))

    @cached_property
    def _students(self) -> Students:
        return Students(
            folder=self.folder,
            kind=self.task.kind,
            original=self.original,
            tokenizer=self.tokenizer,
            rows=self._model_rows,
            first_only=self.task.kind != "token",
            settings=self.settings,
            precision=self._precision,
            load=partial(self._load, "Joined"),
            save=self._save,
        )

    def _save(self, student: PreTrainedModel, folder: Path) -> None:
        student.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @cached_property
    def _model_rows(self) -> Dataset:
        """What models and collators take."""
        names = ("input_ids", "attention_mask", "token_type_ids", "length")
        return self.train.select_columns([name for name in names if name in self.train.column_names])

    def _model(self, candidate: Candidate, seed: int) -> PreTrainedModel:
        if candidate.folder is not None:
            return self._load("AutoModel", candidate.folder)
        if candidate.learn == "labels":
            return self._labelled(candidate.name, lambda: candidate.make(self._untrained, self.task.kind), "Joined")
        if candidate.learn == "copied":
            return candidate.make(self.original, self.task.kind).eval()
        return self._students.student(candidate, seed)

    def _labelled(self, name: str, make, family: str) -> PreTrainedModel:
        """A model that learns from labels."""
        options = self.options
        stage = Stage(
            folder=self.folder / name,
            arguments={
                "num_train_epochs": options.original_epochs,
                "learning_rate": options.original_learning_rate,
                "per_device_train_batch_size": options.per_device_train_batch_size,
                "train_sampling_strategy": "group_by_length",
                **self._precision,
                "seed": options.seed,
            },
            tokenizer=self.tokenizer,
            metrics=self.metric,
            per_position=self.task.kind == "token",
            train=self.train.remove_columns("length"),
            evaluation=self.evaluation,
        )
        result = stage.run(make)
        write_json(self.folder / name / SECONDS, result.seconds)
        return self._load(family, stage.model_dir)

    def _rows(self, split: Dataset, most: int | None) -> Dataset:
        if most is not None and most < len(split):
            order = np.random.default_rng(self.options.seed).permutation(len(split))
            split = split.select(np.sort(order[:most]))
        encode = encode_tokens if self.task.kind == "token" else encode_sequences
        rows = encode(self.tokenizer, split, self.options.max_length)
        return rows.add_column("length", [len(ids) for ids in rows["input_ids"]])
