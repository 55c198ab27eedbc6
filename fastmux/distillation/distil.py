"""Train one student on the outputs of its original: optimiser, schedule, what is frozen, no dropout."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import TeacherOutputs
from fastmux.distillation.trainer import ROW, DistillationTrainer, TeacherCollator
from fastmux.files import read_json, write_json
from fastmux.models.problems import PROBLEMS, problem_of


def on_this_machine(given: Mapping[str, object]) -> dict[str, object]:
    """Arguments of `TrainingArguments` as a machine takes them: without an accelerator, the trainer accepts bfloat16
    only together with ``use_cpu``."""
    half = given.get("bf16") or given.get("bf16_full_eval")
    return {**given, "use_cpu": True} if half and not torch.accelerator.is_available() else dict(given)


def distillation_arguments(folder: Path, settings: ConversionSettings, given: dict[str, object]) -> TrainingArguments:
    """The trainer's arguments; those in ``given`` replace ours. Checkpoints go to ``folder``."""
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": settings.num_train_epochs,
            "learning_rate": settings.learning_rate,
            "per_device_train_batch_size": settings.per_device_train_batch_size,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "adam_beta2": 0.98,
            # Rows of like length share a batch; which ones, and in which slots, is random in each epoch.
            "train_sampling_strategy": "group_by_length",
            "remove_unused_columns": False,
            "save_strategy": "steps",
            "save_steps": 0.1,
            "save_total_limit": 1,
            "logging_steps": 0.02,
            "report_to": [],
            "seed": settings.seed,
            "dataloader_pin_memory": torch.cuda.is_available(),
            **on_this_machine(given),
        }
    )
    if arguments.n_gpu > 1:
        # With several GPUs in one process the trainer would run copies of the student in threads, whose captured states
        # could not be told apart.
        arguments._n_gpu = 1
    return arguments


def distil(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    teacher: TeacherOutputs,
    arguments: TrainingArguments,
    *,
    state_weight: float = 1.0,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, TrainerState, float]:
    """Train a student on its original's outputs, from the last checkpoint in the output folder if there is one.

    Args:
        student: The student, with the original's weights; or one of another width, which learns from the logits only.
        tokenizer: Pads the rows.
        rows: The inputs of the models, and a column ``length``.
        teacher: The original's outputs for these rows.
        arguments: The trainer's arguments, from `distillation_arguments`.
        state_weight: The weight of the states' error in `fastmux.distillation.trainer.distillation_loss`.
        callbacks: Further callbacks of the trainer.

    Returns:
        The student in eval mode; the trainer's state; the seconds of training, including interrupted processes.
    """
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    problem = PROBLEMS[problem_of(student)]
    same_width = student.config.hidden_size == teacher.states.shape[1]
    with _without_dropout(student), _frozen(student.get_input_embeddings() if same_width else nn.Module()):
        trainer = DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=rows.add_column(ROW, np.arange(len(rows))),
            data_collator=TeacherCollator(tokenizer, teacher),
            processing_class=tokenizer,
            problem=problem,
            state_variance=variance_of(teacher.states),
            logit_variance=None if teacher.logits is None else problem.variance(torch.from_numpy(teacher.logits)),
            state_weight=state_weight if same_width else 0.0,
        )
        clock = _Clock(Path(arguments.output_dir) / "seconds.json")
        trainer.add_callback(clock)
        if arguments.logging_strategy == "no":
            trainer.remove_callback(PrinterCallback)  # which would tell of the time
        for callback in callbacks:
            trainer.add_callback(callback)
        checkpoint = last_checkpoint(Path(arguments.output_dir))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # Without the autocast of training: what is measured and saved runs in float32.
    student = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    return student, trainer.state, clock.seconds()


def last_checkpoint(folder: Path) -> Path | None:
    """The Trainer's last whole checkpoint in a folder: the Trainer writes ``trainer_state.json`` last."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            step = read_json(checkpoint / "trainer_state.json")["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        whole.append((step, checkpoint))
    return max(whole)[1] if whole else None


def with_weights(model: PreTrainedModel, checkpoint: Path) -> PreTrainedModel:
    """A model with the weights of one of the Trainer's checkpoints of it."""
    if isinstance(model, PreTrainedModel):
        return type(model).from_pretrained(checkpoint)
    model.load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME))  # one that embeds
    return model


class _Clock(TrainerCallback):
    """The seconds of training, including earlier processes up to their last checkpoint."""

    def __init__(self, path: Path):
        self.path, self.begin = path, time.perf_counter()
        self.before = read_json(path) if path.is_file() else 0.0

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.begin

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_json(self.path, self.seconds())


def variance_of(states: np.ndarray) -> float:
    """The mean variance of the features of the first states; 1 if they are all equal."""
    return float(np.asarray(states[:50_000], dtype=np.float32).var(0).mean()) or 1.0


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off: the student learns to copy exactly, and cannot overfit to so much text."""
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        for module, _ in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, p in dropouts:
            module.p = p


@contextlib.contextmanager
def _frozen(embeddings: nn.Module) -> Iterator[None]:
    """Freeze the word embeddings: their gradient and moments would be the largest part of a step."""
    parameters = [p for p in embeddings.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
