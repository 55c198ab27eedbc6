"""Trains multiplexed transformers beside the same encoder without multiplexing; ``--help`` explains."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, so that both ways of starting
    # it import the same modules and none of them can hide a package of the same name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments, set_seed

import fastmux
from fastmux.files import read_json, write_json
from training.arguments import Settings, parse
from training.distillation import Distillation, with_teacher
from training.features import encode_sequences, encode_tokens, pack_rows
from training.metrics import accuracy, entity_f1
from training.models import PLAIN, ModelFactory
from training.plots import plot_curves
from training.report import environment, table
from training.stages import Stage
from training.tasks import TASKS
from training.tasks.base import Task, TaskData
from training.throughput import arithmetic_limit, instances_per_second
from training.tokenization import train_tokenizer

#: Batch sizes, in rows of the plain encoder and in groups of the multiplexed ones, of which throughput takes
#: the best.
THROUGHPUT_BATCHES = (8, 16, 32, 64)
#: Packed rows of held-out text on which retrieval accuracy is measured, at most.
RETRIEVAL_ROWS = 256


class Run:
    """One run of the program: its data, its stages and its results, in a folder.

    The folder holds ``VARIANT/retrieval``, ``VARIANT/task`` (checkpoints, TensorBoard events, and the model
    of each finished stage), ``VARIANT/scores.json``, and at the end ``metrics.json`` and
    ``learning_curves.png``.
    """

    def __init__(self, settings: Settings, folder: Path):
        self.settings = settings
        self.folder = folder
        self.main = PartialState().is_main_process
        self.task: Task = TASKS[settings.options.task]()
        self.data: TaskData = self.task.load(settings.options.data_dir)
        self.tokenizer = self._tokenizer()
        options, recipe = settings.options, settings.recipe
        encode = encode_tokens if self.task.kind == "token" else encode_sequences
        self.train = encode(self.tokenizer, self.data.train, recipe.max_length)
        self.evaluation = {
            name: encode(self.tokenizer, split, recipe.max_length) for name, split in self.data.evaluation.items()
        }
        self.split = next(iter(self.evaluation))
        self.text = pack_rows(self.tokenizer, self.data.text, recipe.max_length)
        held_out = pack_rows(self.tokenizer, self._held_out(), recipe.max_length)
        self.held_out_text = held_out.shuffle(seed=0).select(range(min(RETRIEVAL_ROWS, len(held_out))))
        self.models = ModelFactory(
            recipe,
            self.tokenizer,
            self.task.kind,
            self.data.labels,
            encoder=options.encoder,
            start=self.task_stage(PLAIN).model_dir if self._starts_from_plain() else None,
            multiplexer=options.multiplexer,
            retrieval_loss_weight=options.retrieval_loss_weight,
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        recipe, encoder = self.settings.recipe, self.settings.options.encoder
        if encoder is not None:
            return AutoTokenizer.from_pretrained(encoder)
        return train_tokenizer(self.data.text, recipe.vocab_size, recipe.max_length)

    def _starts_from_plain(self) -> bool:
        options = self.settings.options
        return options.start_from == PLAIN and PLAIN in options.variants

    def _with_teacher(self, variant: str, stage: Stage) -> Stage:
        """A variant's task stage with the trained plain encoder for a teacher, if it is to have one."""
        recipe = self.settings.recipe
        if variant == PLAIN or PLAIN not in self.settings.options.variants or not recipe.distillation_weight:
            return stage
        distillation = Distillation(recipe.distillation_weight, recipe.distillation_temperature)
        return replace(stage, train=self._taught, distillation=distillation)

    @cached_property
    def _taught(self) -> Dataset:
        """The training rows with the logits of the trained plain encoder."""
        self.say("the plain encoder labels the training rows, for the others to learn from")
        stage = self.task_stage(PLAIN)
        return with_teacher(self.train, stage.logits(self.models.load(PLAIN, stage.model_dir), self.train))

    def _held_out(self) -> list[str]:
        split = self.data.evaluation[next(iter(self.data.evaluation))]
        return list(split["text"]) if "text" in split.column_names else [" ".join(row) for row in split["tokens"]]

    def cut_rows(self) -> dict[str, int]:
        """How many rows of each split were cut at ``max_length``."""
        return {split: sum(rows["cut"]) for split, rows in {"train": self.train, **self.evaluation}.items()}

    def retrieval_stage(self, variant: str) -> Stage:
        """The warm-up of a multiplexed variant, on all the text."""
        recipe = self.settings.recipe
        steps = self.retrieval_steps(variant)
        arguments = self._arguments(recipe.retrieval_rows, recipe.retrieval_learning_rate, max_steps=steps)
        return Stage(
            folder=self.folder / variant / "retrieval",
            arguments=arguments,
            tokenizer=self.tokenizer,
            metrics=accuracy,
            per_position=True,
            train=self.text,
            evaluation=self.held_out_text,
        )

    def retrieval_steps(self, variant: str) -> int:
        """Steps of a variant's warm-up; 0 where it has none."""
        recipe = self.settings.recipe
        return {PLAIN: 0, "unbind": recipe.unbind_retrieval_steps}.get(variant, recipe.retrieval_steps)

    def task_stage(self, variant: str) -> Stage:
        """The task stage of a variant: the same rows a step for all."""
        recipe = self.settings.recipe
        rate, epochs = (
            (recipe.plain_learning_rate, recipe.task_epochs)
            if variant == PLAIN
            else (recipe.mux_learning_rate, recipe.mux_task_epochs)
        )
        sampling = "group_by_length" if recipe.group_by_length else "random"
        tokens = self.task.kind == "token"
        return Stage(
            folder=self.folder / variant / "task",
            arguments=self._arguments(
                recipe.task_rows, rate, num_train_epochs=epochs, train_sampling_strategy=sampling
            ),
            tokenizer=self.tokenizer,
            metrics=entity_f1(self.data.labels) if tokens else accuracy,
            per_position=tokens,
            train=self.train,
            evaluation=self.evaluation[self.split],
        )

    def _arguments(self, rows: int, learning_rate: float, **others) -> dict[str, object]:
        return {
            "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": 32 * self.settings.recipe.num_instances,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "save_total_limit": 1,
            "report_to": ["tensorboard"],
            "label_names": ["labels"],
            "seed": 0,
            **others,
            **self.settings.trainer,
        }

    def variant(self, name: str) -> dict[str, object]:
        """Trains and scores one variant, or reads what an earlier process did."""
        set_seed(self.settings.trainer.get("seed", 0))
        warm_up, task = self.retrieval_stage(name), self.task_stage(name)
        stages = {}
        if self.retrieval_steps(name) > 0:
            self.say(f"{name}: retrieval warm-up, {warm_up.total_steps()} steps")
            stages["retrieval"] = warm_up.finished() or warm_up.run(self.models.retrieval(name))
        warmed_up = warm_up.model_dir if "retrieval" in stages else None
        self.say(f"{name}: task, {task.total_steps()} steps")
        stages["task"] = task.finished()
        if stages["task"] is None:
            task = self._with_teacher(name, task)
            set_seed(self.settings.trainer.get("seed", 0))
            model = self.models.plain() if name == PLAIN else self.models.task(name, warmed_up)
            stages["task"] = task.run(model)
        return {**self._scores(name, warm_up, task), "stages": stages}

    def _scores(self, name: str, warm_up: Stage, task: Stage) -> dict[str, object]:
        path = self.folder / name / "scores.json"
        groupings = 1 if name == PLAIN else self.settings.options.groupings
        if path.is_file():
            scores = read_json(path)
            if scores["groupings"] == groupings:
                return scores
        self.say(f"{name}: evaluation" + (f" on {groupings} groupings" if groupings > 1 else ""))
        model = self.models.load(name, task.model_dir)
        scores = {
            "groupings": groupings,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "scores": {split: task.score(model, rows, groupings) for split, rows in self.evaluation.items()},
            "retrieval_accuracy": None,
            "retrieval_accuracy_after_warm_up": None,
        }
        if self.retrieval_steps(name) > 0:
            after = fastmux.TMuxForRetrieval.from_pretrained(warm_up.model_dir)
            measured = warm_up.score(after, self.held_out_text, groupings)["accuracy"]
            scores["retrieval_accuracy_after_warm_up"] = measured
        if name != PLAIN and self.settings.options.retrieval_loss_weight > 0:
            final = fastmux.TMuxForRetrieval.from_pretrained(task.model_dir)
            scores["retrieval_accuracy"] = warm_up.score(final, self.held_out_text, groupings)["accuracy"]
        if self.main:
            write_json(path, scores)
        PartialState().wait_for_everyone()
        return scores

    def say(self, message: str) -> None:
        """Prints in the main process."""
        if self.main:
            print(f"== {message}", flush=True)


def measure_throughput(run: Run, variants: dict[str, dict]) -> None:
    """Adds instances per second, the ratio to the plain encoder and the limit to every variant's results."""
    recipe = run.settings.recipe
    device = TrainingArguments(output_dir=str(run.folder), report_to=[], **_device_arguments(run.settings)).device
    models = {name: run.models.load(name, run.task_stage(name).model_dir).to(device) for name in variants}
    rows = {
        name: [groups * (1 if name == PLAIN else recipe.num_instances) for groups in THROUGHPUT_BATCHES]
        for name in variants
    }
    ids = torch.tensor(run.held_out_text[: max(map(max, rows.values()))]["input_ids"])
    given = run.settings.trainer
    measured = instances_per_second(
        models,
        ids,
        rows,
        seconds=run.settings.options.throughput_seconds,
        autocast=torch.bfloat16 if given.get("bf16") else torch.float16 if given.get("fp16") else None,
    )
    plain = measured.get(PLAIN, {}).get("instances_per_second")
    for name, result in variants.items():
        result["throughput"] = measured[name]
        result["ratio_to_plain"] = measured[name]["instances_per_second"] / plain if plain else None
        config = models[name].config
        result["limit"] = (
            1.0 if name == PLAIN else arithmetic_limit(recipe.num_instances, recipe.max_length, config.prefix_length)
        )


def join_processes(settings: Settings) -> PartialState:
    """Brings the processes of torchrun together, on the device that the arguments ask for."""
    arguments = TrainingArguments(output_dir="runs", report_to=[], **_device_arguments(settings))
    _ = arguments.device  # the property starts the process group
    return PartialState()


def _device_arguments(settings: Settings) -> dict[str, object]:
    """The given Trainer arguments that choose the device."""
    return {name: settings.trainer[name] for name in ("use_cpu", "ddp_backend") if name in settings.trainer}


def choose_folder(settings: Settings) -> Path:
    """The run's folder: as given, or the latest (to resume) or the first free one below ``runs/``.

    Raises:
        ValueError: nothing to resume, another run's folder, or a folder that is in use.
    """
    options = settings.options
    if settings.output_dir is not None:
        folder = Path(settings.output_dir)
    else:
        base = Path("runs") / options.task
        folder, number = base, 1
        latest = None
        while folder.exists():
            latest, number = folder, number + 1
            folder = base.with_name(f"{base.name}-{number}")
        if options.resume:
            folder = latest or base
    record = folder / "settings.json"
    if options.resume:
        if not record.is_file():
            raise ValueError(f"--resume: {folder} holds no run (no settings.json); leave --resume out to start one")
        before, now = read_json(record), settings.identity()
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            pairs = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
            raise ValueError(f"--resume: {folder} holds a run with other settings: {pairs}")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output_dir {folder} exists and is not empty; give --resume to go on, or another folder")
    return folder


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Runs the program; returns what it writes to ``metrics.json``."""
    started = time.perf_counter()
    settings = parse(argv)
    state = join_processes(settings)
    # The Trainer's progress bars stay; those for loading a small file say nothing.
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

    folder: list[object] = [None]
    if state.is_main_process:
        try:
            folder = [choose_folder(settings)]
        except ValueError as error:
            folder = [error]
    broadcast_object_list(folder)
    if isinstance(folder[0], Exception):
        raise folder[0]

    run = Run(settings, folder[0])
    # Only now, when all input is known to be good, is anything written.
    if state.is_main_process:
        write_json(run.folder / "settings.json", settings.identity())
    state.wait_for_everyone()
    run.say(
        f"{settings.options.task}: {len(run.train)} training rows, {len(run.data.labels)} labels, "
        f"{len(run.text)} packed rows of text, {len(run.tokenizer)} tokens; writing to {run.folder}"
    )
    cut = ", ".join(f"{count} of {split}" for split, count in run.cut_rows().items() if count)
    if cut:
        run.say(f"rows longer than max_length = {run.settings.recipe.max_length} tokens, which were cut: {cut}")
    # The plain encoder first, whatever the order given: the others may start from it.
    results = {name: run.variant(name) for name in sorted(settings.options.variants, key=lambda name: name != PLAIN)}
    variants = {name: results[name] for name in settings.options.variants}
    report: dict[str, object] = {}
    if state.is_main_process:
        run.say("throughput")
        measure_throughput(run, variants)
        report = write_report(run, variants, time.perf_counter() - started)
    state.wait_for_everyone()
    return report


def write_report(run: Run, variants: dict[str, dict], seconds: float) -> dict[str, object]:
    """Writes metrics.json and the plot, prints the table."""
    task, recipe = run.task, run.settings.recipe
    curves = {
        name: {
            stage: result["stages"][stage].log if stage in result["stages"] else None for stage in ("retrieval", "task")
        }
        for name, result in variants.items()
    }
    report = {
        "task": task.name,
        "metric": task.metric,
        "environment": environment(),
        "settings": run.settings.identity(),
        "data": {
            "labels": run.data.labels,
            "train_rows": len(run.train),
            "evaluation_rows": {split: len(rows) for split, rows in run.evaluation.items()},
            "cut_rows": run.cut_rows(),
            "packed_text_rows": len(run.text),
            "vocabulary": len(run.tokenizer),
        },
        "variants": {
            name: {
                **{key: value for key, value in result.items() if key != "stages"},
                "stages": {
                    stage: {"steps": r.steps, "seconds": r.seconds, "resumed_from": r.resumed_from}
                    for stage, r in result["stages"].items()
                },
            }
            for name, result in variants.items()
        },
        "curves": curves,
        "seconds": round(seconds, 1),
    }
    write_json(run.folder / "metrics.json", report)
    size = f"N = {recipe.num_instances}, L = {recipe.max_length}"
    plot_curves(run.folder / "learning_curves.png", curves, task.metric, f"{task.name}: {size}")
    print(f"\n{task.name}, {size}, {report['environment']['device']}, {seconds:.0f} s in all")
    print(table(task.metric, list(run.evaluation), variants))
    print(f"\nwritten: {run.folder}/metrics.json, learning_curves.png, and models in VARIANT/task/model")
    return report


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
