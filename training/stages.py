"""A stage of a run: a model is trained with the Hugging Face Trainer and kept; an interrupted stage goes on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from fastmux.distillation.distil import last_checkpoint, on_this_machine
from fastmux.files import read_json, remove, replacing, write_errors, write_json
from fastmux.models.losses import share_of_labels, token_loss
from fastmux.models.problems import PROBLEMS, problem_of
from fastmux.training.distillation import TEACHER, Distillation, LogitsCollator
from fastmux.training.metrics import Measure, to_ids
from fastmux.training.run_result import StageResult
from fastmux.training.scoring import Predicted

#: Evaluations during a stage, which make its learning curve, and checkpoints, from which it can be resumed.
EVALUATIONS = 6
#: Rows of such an evaluation, at most.
CURVE_ROWS = 512
_RESULT = "stage.json"
#: The Trainer's arguments, unless a stage has others.
_ARGUMENTS = {
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "save_strategy": "steps",
    "save_total_limit": 1,
    "report_to": [],
    "label_names": ["labels"],
    "dataloader_pin_memory": torch.cuda.is_available(),
}


class MuxTrainer(Trainer):
    """The Hugging Face Trainer, with decisions of its own, and with a teacher where the rows bring its logits.

    Where labels are those of tokens (``per_token``), all batches that a step accumulates weigh as one, by their
    labels; retrieval by their tokens. Other losses are means over rows.
    """

    def __init__(self, *args, per_token: bool = False, distillation: Distillation | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.distillation = distillation
        # A forward that takes any keyword makes the Trainer think that its loss heeds `num_items_in_batch`: those of
        # transformers' classifiers do not.
        model = self.accelerator.unwrap_model(self.model)
        self.model_accepts_loss_kwargs = per_token and getattr(model, "accepts_loss_kwargs", False)
        if per_token and not self.model_accepts_loss_kwargs:
            self.compute_loss_func = lambda outputs, labels, **counted: token_loss(outputs.logits, labels, **counted)
        names = inspect.signature(model.forward).parameters
        # (DataParallel would cut the number in pieces.)
        self._counts_tokens = "tokens_in_batch" in names and self.model_accepts_loss_kwargs and self.args.n_gpu <= 1
        self._tokens_in_batch: torch.Tensor | None = None

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        # The base class sorts evaluation rows by length if it does so in training. A multiplexed row's
        # prediction depends on its group, so the groups must be what the order of the data set makes them.
        return None if self.args.world_size > 1 else SequentialSampler(eval_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        # No argument of the model's, and yet wanted in the batches.
        super()._set_signature_columns_if_needed()
        if TEACHER not in self._signature_columns:
            self._signature_columns.append(TEACHER)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        # Called with all batches of a step, before the first of them is run.
        items = super()._get_num_items_in_batch(batch_samples, device)
        self._tokens_in_batch = None
        if items is not None and self._counts_tokens:
            masks = [batch.get("attention_mask", torch.ones_like(batch["labels"])) for batch in batch_samples]
            tokens = sum((mask != 0).sum() for mask in masks).to(device)
            if self.args.world_size > 1 and self.args.average_tokens_across_devices:
                tokens = self.accelerator.gather(tokens).sum()
            self._tokens_in_batch = tokens
        return items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        teacher = inputs.pop(TEACHER, None)
        if num_items_in_batch is not None and self._tokens_in_batch is not None:
            inputs = {**inputs, "tokens_in_batch": self._tokens_in_batch}
        found = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        loss, outputs = found
        if teacher is None:
            return found if return_outputs else loss
        student = self.accelerator.unwrap_model(model)
        learnt = self.distillation.loss(outputs.logits, teacher, inputs["labels"], PROBLEMS[problem_of(student)])
        share, processes = None, 1
        if self.model_accepts_loss_kwargs:
            share = share_of_labels(inputs["labels"], num_items_in_batch)
        if share is not None:
            learnt = share.of(learnt)
            # As the Trainer multiplies the loss whose divisor counts the labels of all processes.
            if self.args.average_tokens_across_devices:
                processes = self.accelerator.num_processes if self.args.n_gpu <= 1 else self.args.n_gpu
        # The model has added retrieval to the task's loss already: only the task's share of the sum is divided anew.
        task_weight, _ = student.config.loss_weights
        loss = loss + processes * task_weight * self.distillation.weight * (learnt - outputs.task_loss)
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class Stage:
    """A stage: what it trains on, and how.

    Attributes:
        folder: The stage's folder: checkpoints, TensorBoard events, then ``model/`` and ``stage.json``.
        arguments: `TrainingArguments` by name; the folder and the intervals are set here.
        tokenizer: The tokenizer, which is saved with the model.
        metrics: The measure that scores predictions.
        per_position: Whether each token has a label. Labels are then padded as ids are.
        train, evaluation: Rows with the columns input_ids, labels and, where they differ in length, attention_mask.
        distillation: How to learn from a teacher's logits. The training rows then have these as a column.
    """

    folder: Path
    arguments: dict[str, object]
    tokenizer: PreTrainedTokenizerBase
    metrics: Measure
    per_position: bool
    train: Dataset
    evaluation: Dataset
    distillation: Distillation | None = None

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return (self.folder / _RESULT).is_file()

    def run(self, make_model: Callable[[], PreTrainedModel]) -> StageResult:
        """Trains a model and saves it, unless that is done already.

        Args:
            make_model: Makes the model to begin with. If the folder has a whole checkpoint, training goes on from that.

        Raises:
            OSError: A file could not be written.
        """
        if self.done:
            result = StageResult(**read_json(self.folder / _RESULT))
        else:
            model = make_model()
            with write_errors(self.folder):
                result = self._train(model)
        if PartialState().is_main_process:
            for folder in self.folder.glob("checkpoint-*"):
                remove(folder)
        PartialState().wait_for_everyone()
        return result

    def _train(self, model: PreTrainedModel) -> StageResult:
        trainer = self.trainer(model)
        checkpoint = last_checkpoint(self.folder)
        start = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        seconds = round(output.metrics["train_runtime"], 2)
        result = StageResult(trainer.state.global_step, seconds, start, trainer.state.log_history)
        if trainer.is_world_process_zero():
            with replacing(self.model_dir) as temporary:
                trainer.accelerator.unwrap_model(trainer.model).save_pretrained(temporary)
                self.tokenizer.save_pretrained(temporary)
            write_json(self.folder / _RESULT, asdict(result))
        return result

    def predict(self, model: PreTrainedModel, rows: Dataset, groupings: int) -> list[Predicted]:
        """A model's predictions for all rows in several random orders, each of which is another grouping."""
        trainer = self.trainer(model)
        trainer.compute_metrics = None
        batch = trainer.args.per_device_eval_batch_size
        found = []
        for grouping in range(groupings):
            order = np.random.default_rng(1000 + grouping).permutation(len(rows))
            said = trainer.predict(rows.select(order))
            prediction = EvalPrediction(said.predictions, said.label_ids)
            found.append(Predicted(order, prediction, said.metrics["test_loss"], batch))
        return found

    def logits(self, model: PreTrainedModel, rows: Dataset) -> np.ndarray:
        """A model's logits for all rows, in their order: (rows, C), or (rows, longest, C), padded."""
        trainer = self.trainer(model)
        trainer.compute_metrics = trainer.preprocess_logits_for_metrics = None
        return trainer.predict(rows).predictions

    def trainer(self, model: PreTrainedModel) -> Trainer:
        """The Trainer of this stage for a model."""
        collator = DataCollatorForTokenClassification if self.per_position else DataCollatorWithPadding
        steps = self.total_steps()
        interval = max(1, steps // EVALUATIONS)
        intervals = {"eval_steps": interval, "save_steps": interval, "logging_steps": max(1, steps // 50)}
        curve_rows = self.evaluation.select(range(min(CURVE_ROWS, len(self.evaluation))))
        given = on_this_machine({**_ARGUMENTS, **intervals, **self.arguments})
        return MuxTrainer(
            model=model,
            args=TrainingArguments(**given, output_dir=str(self.folder)),
            train_dataset=self.train,
            eval_dataset=curve_rows,
            processing_class=self.tokenizer,
            per_token=self.per_position,
            data_collator=LogitsCollator(collator(self.tokenizer)),
            distillation=self.distillation,
            compute_metrics=partial(self.metrics, rows=curve_rows),
            preprocess_logits_for_metrics=to_ids,
        )

    def total_steps(self) -> int:
        """The number of the optimizer's steps in one process."""
        arguments = self.arguments
        steps = arguments.get("max_steps", -1)
        if steps > 0 or "num_train_epochs" not in arguments:
            return max(0, steps)  # a warm-up that is left out has none; what was learnt without it is still measured
        rows = arguments["per_device_train_batch_size"] * arguments.get("gradient_accumulation_steps", 1)
        return math.ceil(arguments["num_train_epochs"] * len(self.train) / rows)
