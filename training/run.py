"""A run: every variant is trained and scored, then all of them are timed side by side."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments, set_seed

import fastmux
from fastmux.distillation.speed import engine_of, tokens_of
from fastmux.passes.timer import rates
from fastmux.training.arguments import Settings
from fastmux.training.distillation import Distillation, with_teacher
from fastmux.training.folders import RunFolder
from fastmux.training.inputs import Inputs
from fastmux.training.metrics import accuracy, best_thresholds, multi_label, scores_of
from fastmux.training.models import ALONE, PLAIN, RIVALS, ModelFactory
from fastmux.training.programs import environment
from fastmux.training.report import what_it_bought
from fastmux.training.run_result import (
    Difference,
    RunResult,
    Score,
    StageResult,
    Throughput,
    VariantResult,
)
from fastmux.training.scoring import SplitScores, difference, score_split
from fastmux.training.stages import Stage


class Run:
    """A run.

    Args:
        settings: The parsed command line.
        folder: The folder that is written to.
        inputs: The rows to train on.
    """

    def __init__(self, settings: Settings, folder: RunFolder, inputs: Inputs):
        self.settings, self.folder, self.inputs = settings, folder, inputs
        options = settings.options
        starts_from_plain = options.start_from == PLAIN and PLAIN in options.variants
        start = folder.model(PLAIN) if starts_from_plain else None
        #: Of each evaluated variant, what each evaluation row adds to its counts, by split.
        self.counts: dict[str, dict[str, np.ndarray]] = {}
        own = (settings.recipe, inputs.tokenizer, inputs.task.kind, inputs.labels)
        self.models = ModelFactory(*own, options.encoder, options.config_name, start)

    def result(self, started: float) -> RunResult | None:
        """Trains all variants, unless an earlier process did, and scores and times them; None but in the main process.

        Args:
            started: `time.perf_counter` of when the program was.
        """
        names = self.settings.options.variants
        # The plain encoder first, whatever the order given: the others may start from it.
        found = {
            name: {"stages": self.train(name), **self.evaluate(name)}
            for name in sorted(names, key=lambda name: name != PLAIN)
        }
        if not PartialState().is_main_process:
            return None
        say("throughput")
        speeds = self.speeds()
        variants = {name: VariantResult(**found[name], **speeds[name]) for name in names}
        task = self.inputs.task
        return RunResult(
            task=task.name,
            metric=task.metric,
            environment=environment(),
            settings=self.settings.identity(),
            data={"labels": self.inputs.labels, **self.inputs.counts()},
            variants=variants,
            sentences=what_it_bought(variants, task.metric, next(iter(self.inputs.evaluation))),
            seconds=round(time.perf_counter() - started, 1),
        )

    def train(self, name: str) -> dict[str, StageResult]:
        """Trains a variant, and returns its stages."""
        stages = {}
        seed = self.settings.trainer.get("seed", 0)
        set_seed(seed)
        if self.retrieval_steps(name) > 0:
            warm_up = self.retrieval_stage(name)
            say(f"{name}: retrieval warm-up, {warm_up.total_steps()} steps")
            stages["retrieval"] = warm_up.run(lambda: self.models.retrieval(name))
        warmed_up = self.folder.model(name, "retrieval") if stages else None
        task = self.task_stage(name)
        say(f"{name}: task, {task.total_steps()} steps")
        if not task.done:
            task = self._with_teacher(name, task)

        def make_model():
            set_seed(seed)
            if name in RIVALS:
                return self.models.rival(name)
            return self.models.plain() if name == PLAIN else self.models.task(name, warmed_up)

        stages["task"] = task.run(make_model)
        return stages

    def evaluate(self, name: str) -> dict[str, object]:
        """Scores a trained variant; returns these fields of `VariantResult` by name."""
        groupings = 1 if name in ALONE else self.settings.options.groupings
        say(f"{name}: evaluation" + (f" on {groupings} groupings" if groupings > 1 else ""))
        task = self.task_stage(name)
        model = self.models.load(name, task.model_dir)
        splits, thresholds = self._scored(name, task, model, groupings)
        self.counts[name] = {split: own.counts for split, own in splits.items()}
        retrieves = name not in ALONE and self.settings.recipe.retrieval_loss_weight > 0
        warmed_up = self._retrieval_accuracy(name, "retrieval") if self.retrieval_steps(name) > 0 else None
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "groupings": groupings,
            "scores": {split: own.scores for split, own in splits.items()},
            "slots": {split: own.slots for split, own in splits.items()},
            "thresholds": thresholds,
            "retrieval_accuracy_after_warm_up": warmed_up,
            "retrieval_accuracy": self._retrieval_accuracy(name, "task") if retrieves else None,
            "difference_to_plain": self.differences(name),
        }

    def _scored(
        self, name: str, task: Stage, model: PreTrainedModel, groupings: int
    ) -> tuple[dict[str, SplitScores], dict[str, float] | None]:
        """The scores of every split, and the thresholds by which all but the first are scored."""
        measure, labels = task.metrics, self.inputs.labels
        slots = 1 if name in ALONE else self.settings.recipe.num_instances
        choose = self.inputs.task.kind == "multi_label" and len(self.inputs.evaluation) > 1
        splits, thresholds = {}, None
        for split, rows in self.inputs.evaluation.items():
            predicted = task.predict(model, rows, groupings)
            splits[split] = score_split(measure, self.inputs.task.metric, rows, predicted, slots)
            if choose and thresholds is None:
                logits = np.concatenate([own.prediction.predictions for own in predicted])
                best = best_thresholds(logits, np.concatenate([own.prediction.label_ids for own in predicted]))
                thresholds, measure = dict(zip(labels, best, strict=True)), multi_label(labels, best)
        return splits, thresholds

    def differences(self, name: str) -> dict[str, Difference]:
        """An evaluated variant's metric less the plain encoder's, by evaluation split."""
        if name == PLAIN or PLAIN not in self.counts:
            return {}
        measure, metric = self.task_stage(name).metrics, self.inputs.task.metric
        plain, own = self.counts[PLAIN], self.counts[name]
        return {s: difference(lambda sums: measure.score(sums)[metric], own[s], plain[s]) for s in own}

    def _retrieval_accuracy(self, name: str, stage: str) -> Score:
        model = fastmux.TMuxForRetrieval.from_pretrained(self.folder.model(name, stage))
        groupings = self.settings.options.groupings
        rows = self.inputs.held_out_text
        predicted = self.retrieval_stage(name).predict(model, rows, groupings)
        return score_split(accuracy, "accuracy", rows, predicted, 1).scores["accuracy"]

    def speeds(self) -> dict[str, dict[str, object]]:
        """``throughput``, ``ratio_to_plain`` and ``limit`` of every variant."""
        options, given = self.settings.options, self.settings.trainer
        device = device_arguments(self.settings).device
        models = {name: self.models.load(name, self.folder.model(name)).to(device) for name in options.variants}
        tokens = tokens_of(self.inputs.held_out_text)
        calls = {name: partial(engine_of(m, self.inputs.tokenizer).run, tokens) for name, m in models.items()}
        half = torch.bfloat16 if given.get("bf16") else torch.float16 if given.get("fp16") else None
        with torch.autocast(device.type, half) if half else contextlib.nullcontext():
            started = time.perf_counter()
            rates(calls, len(tokens.lengths), repeats=1)
            turns = 2 * options.throughput_seconds / (time.perf_counter() - started)
            found = rates(calls, len(tokens.lengths), repeats=min(max(3, round(turns)), 25))
        plain = found[PLAIN].rows_per_second if PLAIN in found else None
        return {
            name: {
                "throughput": Throughput(rate.rows_per_second, rate.slowest, rate.fastest),
                "ratio_to_plain": rate.rows_per_second / plain if plain else None,
                "limit": self.limit(name, models[name]),
            }
            for name, rate in found.items()
        }

    def limit(self, name: str, model: PreTrainedModel) -> float:
        """How many times faster than the plain encoder a variant is if nothing but the encoder's matrices cost."""
        recipe = self.settings.recipe
        length, layers, alone = recipe.max_length, recipe.num_layers, recipe.joined_row_layers
        if name == "joined":
            joined = 1 + -(-(length - 1) // recipe.num_instances)  # the first position stays apart
            return layers * length / (alone * length + (layers - alone) * joined)
        if name == PLAIN:
            return 1.0
        if name in ALONE:
            return layers / model.config.num_hidden_layers * (recipe.hidden_size / model.config.hidden_size) ** 2
        return recipe.num_instances * length / (length + model.config.prefix_length)

    def retrieval_steps(self, variant: str) -> int:
        """Steps of a variant's warm-up; 0 where it has none."""
        recipe = self.settings.recipe
        if variant in ALONE:
            return 0
        return recipe.unbind_retrieval_steps if variant == "unbind" else recipe.retrieval_steps

    def retrieval_stage(self, variant: str) -> Stage:
        """The warm-up of a multiplexed variant, on all the text."""
        recipe = self.settings.recipe
        steps = self.retrieval_steps(variant)
        return Stage(
            folder=self.folder.stage(variant, "retrieval"),
            arguments=self._arguments(recipe.retrieval_rows, recipe.retrieval_learning_rate, max_steps=steps),
            tokenizer=self.inputs.tokenizer,
            metrics=accuracy,
            per_position=True,
            train=self.inputs.text,
            evaluation=self.inputs.held_out_text,
        )

    def task_stage(self, variant: str) -> Stage:
        """The task stage of a variant: the same rows a step for all."""
        recipe, task = self.settings.recipe, self.inputs.task
        rate = recipe.plain_learning_rate if variant in ALONE else recipe.mux_learning_rate
        # What is faster than the plain encoder sees as many rows as the multiplexed ones: the same for all of them.
        epochs = recipe.task_epochs if variant == PLAIN else recipe.mux_task_epochs
        sampling = {"train_sampling_strategy": "group_by_length" if recipe.group_by_length else "random"}
        return Stage(
            folder=self.folder.stage(variant, "task"),
            arguments=self._arguments(recipe.task_rows, rate, num_train_epochs=epochs, **sampling),
            tokenizer=self.inputs.tokenizer,
            metrics=scores_of(task.kind, task.metric, self.inputs.labels, task.tag_scheme),
            per_position=task.kind == "token",
            train=self.inputs.train,
            evaluation=self.inputs.curve_split,
        )

    def _arguments(self, rows: int, learning_rate: float, **others) -> dict[str, object]:
        return {
            "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": 32 * self.settings.recipe.num_instances,
            "learning_rate": learning_rate,
            "eval_strategy": "steps",
            "report_to": ["tensorboard"],
            "seed": 0,
            **others,
            **self.settings.trainer,
        }

    def _with_teacher(self, variant: str, stage: Stage) -> Stage:
        """A variant's task stage with the trained plain encoder for a teacher, if it is to have one."""
        recipe = self.settings.recipe
        if variant in ALONE or PLAIN not in self.settings.options.variants or not recipe.distillation_weight:
            return stage
        distillation = Distillation(recipe.distillation_weight, recipe.distillation_temperature)
        return replace(stage, train=self._taught, distillation=distillation)

    @cached_property
    def _taught(self) -> Dataset:
        """The training rows with the logits of the trained plain encoder."""
        say("the plain encoder labels the training rows, for the others to learn from")
        stage, rows = self.task_stage(PLAIN), self.inputs.train
        return with_teacher(rows, stage.logits(self.models.load(PLAIN, stage.model_dir), rows))


def device_arguments(settings: Settings) -> TrainingArguments:
    """Trainer arguments that say no more than on which device to run."""
    given = {name: settings.trainer[name] for name in ("use_cpu", "ddp_backend") if name in settings.trainer}
    return TrainingArguments(output_dir="runs", report_to=[], **given)


def say(message: str) -> None:
    """Prints in the main process."""
    if PartialState().is_main_process:
        print(f"== {message}", flush=True)
