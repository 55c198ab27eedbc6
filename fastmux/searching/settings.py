"""What is searched for, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.passes.runtimes.record import PRECISIONS
from fastmux.passes.timer import CLOCKS
from fastmux.settings import check_fields, integer, number, one_of


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for, and how long.

    Attributes:
        speedup: How many times as fast as the original, through the same engine, the model has to be. Of all that are,
            the one that agrees best with the original is chosen.
        agreement: The share of rows (of words, if the model labels words) that has to get the original's label; of a
            model that embeds, the share of each text's ten nearest neighbours that has to be the original's. Of all
            models that reach it, the fastest is chosen. If neither this nor ``speedup`` is given, 0.98, and 0.8 of
            neighbours.
        minutes: How long the search may take, about.
        max_length: The most tokens of a row. Longer rows are cut.
        max_steps: How many optimiser steps the candidate gets that is trained longest, in place of as many as fit into
            ``minutes``. It makes a search repeatable.
        learning_rate: The peak learning rate of all candidates.
        per_device_train_batch_size: How many rows a training step has.
        runtime: What may run the model: torch or onnxruntime. By default both are measured.
        precision: The precision of its matrices: float32, or int8 in onnxruntime. By default both are measured.
        clock: What speed is measured by: "wall", or "cpu", the time that the processor worked, for a machine that runs
            other programs too.
        seed: The seed for all that is random: the split of the rows, their order, signs.
    """

    speedup: float | None = number(None, 1, above=True)
    agreement: float | None = number(None, 0.5, 1)
    minutes: float = number(30.0, above=True)
    max_length: int = integer(128, 1)
    max_steps: int | None = integer(None, 4)
    learning_rate: float = number(3e-4, above=True)
    per_device_train_batch_size: int = integer(32, 1)
    runtime: str | None = one_of(None, ("torch", "onnxruntime"))
    precision: str | None = one_of(None, PRECISIONS)
    clock: str = one_of("wall", tuple(CLOCKS))
    seed: int = integer(0, 0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.runtime == "torch" and self.precision == "int8":
            raise ValueError("precision is 'int8', which torch does not run; expected runtime 'onnxruntime', or none")
        if self.speedup is not None and self.agreement is not None:
            raise ValueError(
                f"speedup is {self.speedup:g}, agreement is {self.agreement:g}, expected one of them: the search "
                "finds the best agreement at a speed, or the best speed at an agreement"
            )
