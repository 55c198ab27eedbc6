"""How a model is converted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastmux.joins import JOINS
from fastmux.labelling.settings import check_choice, check_integer

#: The settings that, beside N, say of which layers a converted model is made: arguments of ``from_backbone``.
STRUCTURE = ("join", "row_layers", "last_layers", "first_layers", "joined_layers")


@dataclass(frozen=True)
class ConversionSettings:
    """How a model is converted.

    Attributes:
        num_instances: N, states that share a pass of the joined layers; 1 joins nothing and leaves a plain encoder,
            of fewer layers where ``joined_layers`` says so.
        join: "positions", N neighbouring positions of a row; or "rows", N rows of the batch at each position.
        row_layers, last_layers: layers that run on every state before and after the joined ones.
        first_layers: of the last layers, how many run at the first position alone, for a sequence head.
        joined_layers: those of the original's layers that run joined; all between row and last layers if None.
        max_length: tokens of a row; longer ones are cut.
        num_train_epochs: passes over the text.
        learning_rate: peak, after a tenth of the steps.
        state_weight: of the hidden states' error beside the labels' divergence.
        per_device_train_batch_size: rows of a step.
        seed: of the order of rows, of signs, of the held-out rows.
    """

    num_instances: int = 2
    join: str = "positions"
    row_layers: int = 1
    last_layers: int = 1
    first_layers: int = 1
    joined_layers: tuple[int, ...] | None = None
    max_length: int = 128
    num_train_epochs: float = 3.0
    learning_rate: float = 3e-4
    state_weight: float = 1.0
    per_device_train_batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_instances", "max_length", "per_device_train_batch_size"):
            check_integer(name, getattr(self, name), 1)
        for name in ("row_layers", "last_layers", "first_layers", "seed"):
            check_integer(name, getattr(self, name), 0)
        check_choice("join", self.join, JOINS)
        for name, zero in (("num_train_epochs", False), ("learning_rate", False), ("state_weight", True)):
            value = getattr(self, name)
            known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not known or value < 0 or (value == 0 and not zero):
                least = "of at least 0" if zero else "above 0"
                raise ValueError(f"{name} is {value!r}, expected a number {least}")
