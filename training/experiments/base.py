"""An experiment: data, a network, a loss and measures. `training/experiment.py` does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastmux import Multiplexed
from fastmux.settings import check_fields
from fastmux.training.run_result import Score

#: Columns of rows by name: tensors with as many rows each.
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Metric:
    """A score: the mean of what `Experiment.measure` gives for each row.

    Attributes:
        name: Its name in tables.
        of_mean: Makes the score of the mean: `math.sqrt` where rows have squared errors.
    """

    name: str
    of_mean: Callable[[float], float] = float


@dataclass(frozen=True)
class Multiplexing:
    """How rows share a pass: the arguments of `fastmux.Multiplexed` that a recipe has.

    Attributes:
        num_instances: N, the rows that share a pass.
        multiplexer, multiplexer_options, demultiplexer, demultiplexer_options: See there.
    """

    num_instances: int = 1
    multiplexer: str = "hadamard"
    demultiplexer: str = "unbind"
    multiplexer_options: Mapping[str, object] | None = None
    demultiplexer_options: Mapping[str, object] | None = None

    def wrap(self, network: nn.Module, width: int, **shape) -> Multiplexed:
        """Puts a network on N rows at once. ``shape`` are further arguments: stem, head, out_width, feature_dim."""
        return Multiplexed(network, width=width, **vars(self), **shape)


class Fit(Protocol):
    """The second argument of `Experiment.train`, which calls it to train.

    Attributes:
        folder: The cell's folder, for pictures.
        train, test: The rows. Time a network on the test rows, or the like, and never choose by them.
    """

    folder: Path
    train: Rows
    test: Rows

    def __call__(self, **arguments: object) -> None:
        """Trains on all training rows; ``arguments`` are `TrainingArguments` in place of the recipe's."""

    def score(self) -> dict[str, float]:
        """The scores of the test rows at present, in one grouping, by the metric's name. Report them, and do not choose
        by them."""


class Experiment(ABC):
    """An experiment. A subclass is a frozen dataclass whose fields, with defaults, are what its recipes may set: sizes,
    kinds of network; `fastmux.settings` says how it names the values that are allowed. See docs/experiments.md.

    Attributes:
        name: Its name in recipes.
        inputs: The columns of the rows that the network is called with, in their order.
        metrics: What `measure` measures; the first is what tables and plots show.
        splits_by_seed: A seed draws the split into training and test rows, as where rows are few; otherwise
            the test rows are the same for every seed.
        slots: The rows of a batch share passes, N neighbours each; otherwise a row has its companions in
            itself, and one order of the test rows is enough.
        over: A figure that `train` returns, such as speed, to stand on the plot's horizontal axis, where a line is an N
            and a point a variant; by default that axis is N, and a line is a variant.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    splits_by_seed: ClassVar[bool] = False
    slots: ClassVar[bool] = True
    over: ClassVar[str | None] = None

    def __post_init__(self):
        check_fields(self)

    @abstractmethod
    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        """Training and test rows.

        Args:
            data_dir: The folder with the experiment's files, or with a subfolder that holds them.
            seed: It draws whatever is drawn of the data.

        Raises:
            ValueError: A file is missing or malformed; the message says which and what is expected.
        """

    @abstractmethod
    def model(self, multiplexing: Multiplexing) -> nn.Module:
        """A new network, called with the columns `inputs` of B rows; with N = 1 it is the plain one.

        Raises:
            ValueError: The options do not fit one another.
        """

    @abstractmethod
    def loss(self, outputs, rows: Rows) -> Tensor:
        """The training loss of the network's outputs for B rows."""

    @abstractmethod
    def measure(self, outputs, rows: Rows) -> Rows:
        """For each of `metrics`, by name, the value of each row: (B,), e.g. 1 where it is right. All but the first may
        be left out where they mean nothing."""

    def scores(self, measured: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """The scores over groupings, by name. ``measured`` has what `measure` gave for each row: (groupings, rows)."""
        own = [metric for metric in self.metrics if metric.name in measured]
        return {m.name: Score.of([m.of_mean(float(row.mean())) for row in measured[m.name]]) for m in own}

    def scores_by_slot(
        self, measured: Mapping[str, np.ndarray], orders: list[Tensor], num_instances: int
    ) -> dict[str, list[float]]:
        """The score of the rows at each place in a group, by name; empty if rows do not share passes.

        Args:
            measured: (groupings, rows), as `scores` takes it.
            orders: The rows' order in each grouping. Batches are whole groups, so that a place is that in the order.
        """
        found = {}
        for metric in self.metrics if self.slots else ():
            if metric.name in measured:
                rows = np.stack([row[order] for row, order in zip(measured[metric.name], orders, strict=True)])
                places = (rows[:, place::num_instances].mean() for place in range(num_instances))
                found[metric.name] = [metric.of_mean(float(mean)) for mean in places]
        return found

    def references(self, train: Rows, test: Rows) -> dict[str, Rows]:
        """Figures to beat that need no training, by name, as `measure` gives them; for example, always the median."""
        return {}

    def train(self, model: nn.Module, fit: Fit) -> Mapping[str, float]:
        """Trains the model; by default once, ``fit()``. An experiment that trains in several stages calls it as often.

        Returns:
            Figures of its own, by name, that stand in the table beside the metrics.
        """
        fit()
        return {}


def convolution(inner: int, outer: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size, or divides it by the stride; BatchNorm; ReLU."""
    layer = nn.Conv2d(inner, outer, size, stride=stride, padding=size // 2)
    return nn.Sequential(layer, nn.BatchNorm2d(outer), nn.ReLU())


def select(rows: Rows, index: Tensor | slice) -> Rows:
    """Some of the rows."""
    return {name: column[index] for name, column in rows.items()}


def draw_split(rows: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random places of the rows to train on, and of a share of them, at least one, to test on."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows))
    tests = max(1, round(share * rows))
    return order[tests:], order[:tests]


def scales(values: Tensor, train: Tensor) -> Rows:
    """The ``center`` and ``scale`` of the training rows' values, as columns of all rows."""
    found = {"center": values[train].mean(), "scale": values[train].std().clamp(min=1e-6)}
    return {name: value.expand(len(values)) for name, value in found.items()}


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the highest logit is the label's, else 0: logits (B, C), labels (B) -> (B)."""
    return (logits.argmax(-1) == labels).to(torch.float32)
