"""Runtimes run a model. Each is a class in a file of its own here, with the methods of `Runtime`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from fastmux.passes.packing import PackedRows
from fastmux.passes.plan import Layout

#: The problem type of a model whose answers are vectors, not logits.
EMBEDDING = "embedding"


class Runtime(Protocol):
    """A loaded model that takes padded batches of tokens.

    Attributes:
        num_instances: N, the slots of a group; 1 of a model whose rows share nothing.
        layout: How it lays out groups that hold N different rows.
        num_labels: C; D of a model that embeds.
        per_token: Whether its logits are of tokens, not of rows.
        problem_type: As in a Hugging Face config; "embedding" if the answers are vectors, not logits.
        pad_token_id: The token that pads rows.
        weights: About how many weights each position is multiplied by: the parameters of the matrices.
    """

    num_instances: int
    layout: Layout
    num_labels: int
    per_token: bool
    problem_type: str
    pad_token_id: int
    weights: int

    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """Begin a pass over rows that fill whole groups: (B, L) arrays by name, as `Tokens.padded` makes them.

        Returns:
            A function that waits for the logits, float32 or float64: (B, C), or (B, L, C) of tokens.
        """

    def prepare(self, length: int, positions: int) -> None:
        """Within `ready`, prepare for rows of up to so many tokens, in passes of up to so many positions: none is then
        slow because it is the first of its size."""

    def ready(self) -> AbstractContextManager[None]:
        """A context in which passes run: the model is in eval mode, and its weights must not change."""


class PackingRuntime(Runtime, Protocol):
    """A runtime whose layout may say ``packed``: the groups of a pass then lie end to end."""

    def captures(self, groups: int, length: int) -> bool:
        """Whether it would rather have a pass of so many groups padded to that length, as it is small enough to be
        captured."""

    def start_packed(self, rows: PackedRows) -> Callable[[], np.ndarray]:
        """Begin a pass over packed rows.

        Returns:
            A function that waits for the logits, float32 or float64: (G * N, C), slot after slot of each group, or
            (N, T, C) of tokens.
        """
