"""A model in training that can be killed: what a step does depends on the state before it and on its number alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastmux.distillation.attention import bfloat16_steps
from fastmux.files import replacing

#: AdamW's, as `fastmux.distillation.distil` has them.
_BETAS, _WEIGHT_DECAY, _LARGEST_NORM = (0.9, 0.98), 0.01, 1.0
#: Batches that are sorted by length together.
_SORTED = 50


@dataclass
class Learner:
    """A model, its optimizer and where they are.

    Args:
        model: The model, on its device; only parameters that want a gradient are trained. Its dropout stays.
        batch: The inputs of a step, by the step's number, from 0.
        loss: The loss of the model on such inputs, a scalar.
        seed: Of what a step draws.
        bf16: Whether the loss is computed under bfloat16 autocast.

    Attributes:
        step: How many steps were done.
        seconds: The processor time that they took, of all threads and in all processes.
    """

    model: nn.Module
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    seed: int = 0
    bf16: bool = False
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        # Biases and norms are not drawn towards 0.
        groups = [
            {"params": [p for p in self._parameters if p.dim() > 1], "weight_decay": _WEIGHT_DECAY},
            {"params": [p for p in self._parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=_BETAS, fused=True)
        self._device = next(self.model.parameters()).device

    def advance(self, rate: float) -> float:
        """One step at this learning rate; returns the loss before it.

        Raises:
            ValueError: The loss is NaN or infinite.
        """
        start = time.process_time()
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.step)).generate_state(1)[0]))
        inputs = self.batch(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with bfloat16_steps(self._device, self.bf16):
            loss = self.loss(self.model, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, _LARGEST_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        value = loss.item()
        if not np.isfinite(value):
            raise ValueError(f"the loss is {value} at step {self.step + 1}: is the learning rate, {rate:g}, too high?")
        self.step += 1
        self.seconds += time.process_time() - start
        return value

    def run(
        self, end: int, rate: Callable[[int], float], file: Path, on_step: Callable[[], None], save_seconds: float
    ) -> None:
        """Steps up to the ``end``-th, with the state written to a file now and then.

        Args:
            rate: The learning rate of a step, by its number.
            on_step: Called after each.
            save_seconds: How long after the last state was written the next is.
        """
        saved = time.monotonic()
        while self.step < end:
            self.advance(rate(self.step))
            on_step()
            if time.monotonic() - saved >= save_seconds:
                self.save(file)
                saved = time.monotonic()

    def save(self, file: Path) -> None:
        """Write the state, whole or not at all."""
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        with replacing(file, durable=True) as temporary:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, temporary)

    def resume(self, file: Path) -> bool:
        """Go on from a file of `save`; returns whether there is one."""
        if not file.is_file():
            return False
        state = torch.load(file, map_location=self._device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True


def steps_done(file: Path) -> int:
    """The steps of a state that `Learner.save` wrote; 0 if there is none."""
    return torch.load(file, mmap=True, weights_only=True)["step"] if file.is_file() else 0


@dataclass
class Order:
    """Which rows a step has: all rows in another random order in each epoch, those of a batch of like length.

    Args:
        lengths: The rows' lengths, (rows).
        batch: The rows of a step. What is left over at the end of an epoch waits for another one.
        seed: Of the order.

    Raises:
        ValueError: There are fewer rows than a step has.

    Example:
        >>> import numpy as np
        >>> from fastmux.training.learner import Order
        >>> order = Order(np.array([3, 9, 4, 8]), batch=2, seed=0)
        >>> sorted(sorted(order.rows(step).tolist()) for step in (0, 1))
        [[0, 2], [1, 3]]
    """

    lengths: np.ndarray
    batch: int
    seed: int = 0
    _epoch: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.lengths) < self.batch:
            raise ValueError(
                f"there are {len(self.lengths)} rows to learn from, expected at least a step's {self.batch}"
            )

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return len(self.lengths) // self.batch

    def rows(self, step: int) -> np.ndarray:
        """The rows of a step, by its number."""
        epoch, place = divmod(step, self.steps)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        return self._epoch[1][place]

    def _batches(self, epoch: int) -> np.ndarray:
        draw = np.random.default_rng((self.seed, epoch))
        order = draw.permutation(len(self.lengths))[: self.steps * self.batch]
        size = _SORTED * self.batch
        parts = (order[start : start + size] for start in range(0, len(order), size))
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        return draw.permutation(order.reshape(-1, self.batch))
