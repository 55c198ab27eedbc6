"""One cell of a table: a network is trained with the Hugging Face Trainer and scored on several groupings."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from fastmux.files import read_json, replacing, write_errors, write_json
from fastmux.training.experiments import Experiment, Rows
from fastmux.training.experiments.base import select
from fastmux.training.run_result import Score, of_json
from fastmux.training.tables.recipe import Cell

GROUP_BY_LENGTH = "group_by_length"
_RESULT, _ROWS, _MODEL = "cell.json", "rows.npz", "model.safetensors"


@dataclass(frozen=True)
class CellResult:
    """The content of ``cell.json``.

    Attributes:
        variant, num_instances, seed: They say which cell it is.
        settings: The settings of the experiment, of the multiplexing and of the Trainer.
        parameters: The number of the network's parameters, with the demultiplexer's.
        multiply_adds: The multiply-adds of convolutions and matrix products in a forward pass, for each row.
        steps, seconds, cpu_seconds: The steps of training, and the time that it took by the clock and by the processor.
        scores: The scores of the test rows over the groupings, by the metric's name, and the experiment's own figures.
        slots: The score of the rows that stood at each place in a group, by the metric's name. It is empty if rows do
            not share passes.
        rows: What was measured of each test row in each grouping, by the metric's name: (groupings, rows). The file
            ``rows.npz`` has it.
    """

    variant: str
    num_instances: int
    seed: int
    settings: dict[str, object]
    parameters: int
    multiply_adds: int
    steps: int
    seconds: float
    cpu_seconds: float
    scores: dict[str, Score]
    slots: dict[str, list[float]]
    rows: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def record(self) -> dict[str, object]:
        """The content of the file."""
        return {name: value for name, value in asdict(self).items() if name != "rows"}


class ExperimentTrainer(Trainer):
    """The Hugging Face Trainer with an experiment's rows, inputs and loss."""

    def __init__(self, model: nn.Module, args: TrainingArguments, rows: Rows, experiment: Experiment):
        # The data set is the rows' numbers, so that a batch is one indexing of each column.
        numbers: Any = range(count(rows))
        super().__init__(model, args, lambda batch: select(rows, torch.tensor(batch)), numbers)
        self.remove_callback(PrinterCallback)  # a line a cell is enough where there is no terminal
        self.rows, self.experiment = rows, experiment
        # The losses are means over a batch, whatever keywords a network takes.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != GROUP_BY_LENGTH:
            return super()._get_train_sampler(train_dataset)
        lengths = self.rows[self.args.length_column_name].tolist()
        return LengthGroupedSampler(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=lengths)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(*(inputs[name] for name in self.experiment.inputs))
        loss = self.experiment.loss(outputs, inputs)
        return (loss, outputs) if return_outputs else loss


def count(rows: Rows) -> int:
    """The number of rows."""
    return len(next(iter(rows.values())))


def load(cell: Cell, data_dir: str) -> tuple[Rows, Rows]:
    """A cell's training and test rows, checked.

    Raises:
        ValueError: As `Experiment.load`; or there are fewer rows than a group has, columns differ in length, or rows
            are to be grouped by a length that they do not have.
    """
    parts = cell.experiment.load(data_dir, cell.seed)
    for split, rows in zip(("training", "test"), parts, strict=True):
        lengths = {name: len(column) for name, column in rows.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{cell.experiment.name}: columns of the {split} rows differ in length: {lengths}")
        if count(rows) < cell.num_instances:
            raise ValueError(
                f"{cell.name}: {count(rows)} {split} rows, fewer than one group of num_instances={cell.num_instances}"
            )
    names = cell.trainer.get("length_column_name", "length")
    if cell.trainer.get("train_sampling_strategy") == GROUP_BY_LENGTH and names not in parts[0]:
        raise ValueError(
            f"{cell.name}: train_sampling_strategy is 'group_by_length', and rows have no column {names!r}"
        )
    return parts


def make_model(cell: Cell) -> nn.Module:
    """A cell's network with random weights. Raises ValueError for options that do not fit."""
    torch.manual_seed(cell.seed)
    try:
        return cell.experiment.model(cell.multiplexing)
    except ValueError as error:
        raise ValueError(f"{cell.name}: {error}") from error


def finished(folder: Path) -> CellResult | None:
    """The result of a cell that an earlier call finished; None if there is none."""
    if not (folder / _RESULT).is_file():
        return None
    with np.load(folder / _ROWS) as rows:
        return of_json(CellResult, {**read_json(folder / _RESULT), "rows": dict(rows)})


def run(cell: Cell, folder: Path, data_dir: str, groupings: int) -> CellResult:
    """Trains a cell and scores it; ``folder`` then has the network's weights, the result and the rows' measures.

    Raises:
        ValueError: As `load` and `make_model`, or an argument of the Trainer that it refuses.
        OSError: A file could not be written.
    """
    experiment = cell.experiment
    train, test = load(cell, data_dir)
    model = make_model(cell)
    orders = [random_order(test, grouping) for grouping in range(groupings)]
    orders = orders if cell.num_instances > 1 and experiment.slots else orders[:1]
    fit = Training(cell, model, train, test, folder)

    wall, cpu = time.perf_counter(), time.process_time()
    own = experiment.train(model, fit)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    rows = measure(fit.trainer, test, orders)
    result = CellResult(
        variant=cell.variant,
        num_instances=cell.num_instances,
        seed=cell.seed,
        settings=cell.settings,
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=multiply_adds(fit.trainer, test),
        steps=fit.steps,
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu_seconds, 2),
        scores={**experiment.scores(rows), **{name: Score.of([float(value)]) for name, value in own.items()}},
        slots=experiment.scores_by_slot(rows, orders, cell.num_instances),
        rows=rows,
    )
    with write_errors(folder, "the same command"):
        with replacing(folder / _MODEL) as temporary:
            save_model(model, str(temporary))
        with replacing(folder / _ROWS) as temporary:
            np.savez_compressed(temporary, **rows)
        write_json(folder / _RESULT, result.record())
    return result


def random_order(rows: Rows, grouping: int) -> Tensor:
    """The places of the rows in the random order of a grouping."""
    return torch.randperm(count(rows), generator=torch.Generator().manual_seed(1000 + grouping))


@dataclass
class Training:
    """A cell's `fastmux.training.experiments.Fit`: what `Experiment.train` calls, and what came of it.

    Attributes:
        trainer: The Trainer of the last call, or one that has not trained yet.
        steps: The steps of all calls.
    """

    cell: Cell
    model: nn.Module
    train: Rows
    test: Rows
    folder: Path
    steps: int = 0

    def __post_init__(self):
        self.trainer = self._trainer()

    def __call__(self, **arguments: object) -> None:
        self.trainer = self._trainer(**arguments)
        self.trainer.train()
        self.steps += self.trainer.state.global_step

    def _trainer(self, **arguments: object) -> ExperimentTrainer:
        arguments = training_arguments(self.cell, self.folder, **arguments)
        return ExperimentTrainer(self.model, arguments, self.train, self.cell.experiment)

    def score(self) -> dict[str, float]:
        rows = measure(self.trainer, self.test, [random_order(self.test, 0)])
        return {name: score.mean for name, score in self.cell.experiment.scores(rows).items()}


def training_arguments(cell: Cell, folder: Path, **arguments: object) -> TrainingArguments:
    """A cell's arguments of the Trainer, with ``arguments`` in their place. The Trainer writes nothing: a cell's files
    are written once it is finished."""
    # Without a device of another kind the Trainer takes bf16 only if it is told that this is meant.
    defaults = {"use_cpu": not torch.accelerator.is_available(), "report_to": "none", "save_strategy": "no"}
    defaults |= {"logging_steps": 0.05, "disable_tqdm": not sys.stderr.isatty()}
    fixed = {"remove_unused_columns": False, "seed": cell.seed, "output_dir": str(folder)}
    return TrainingArguments(**{**defaults, **cell.trainer, **arguments, **fixed})


@torch.inference_mode()
def measure(trainer: ExperimentTrainer, test: Rows, orders: list[Tensor]) -> dict[str, np.ndarray]:
    """What the experiment measures of each test row, (orders, rows), when the rows come in each of these orders and
    neighbours share a group. The result has the rows in the data's own order."""
    experiment, args = trainer.experiment, trainer.args
    model = trainer.model.eval()
    measured: dict[str, np.ndarray] = {}
    for number, order in enumerate(orders):
        for index in order.split(args.per_device_eval_batch_size):
            rows = {name: column.to(args.device) for name, column in select(test, index).items()}
            with trainer.accelerator.autocast():
                outputs = model(*(rows[name] for name in experiment.inputs))
            for name, values in experiment.measure(outputs, rows).items():
                whole = measured.setdefault(name, np.empty((len(orders), count(test)), np.float32))
                whole[number, index.numpy()] = values.float().cpu().numpy()
    return measured


@torch.inference_mode()
def multiply_adds(trainer: ExperimentTrainer, test: Rows) -> int:
    """The multiply-adds of convolutions and matrix products in a forward pass, for each row."""
    size = min(trainer.args.per_device_eval_batch_size, count(test))
    rows = select(test, slice(size))
    with FlopCounterMode(display=False) as counter:
        trainer.model(*(rows[name].to(trainer.args.device) for name in trainer.experiment.inputs))
    return counter.get_total_flops() // (2 * size)
