"""Run any number of rows through a model, and the rows of which it is unsure through a fallback."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from fastmux.passes.cascade import CascadeThreshold, agrees, choose_min_confidence, confidence
from fastmux.passes.grouping import average_slots, check_copies, group_rows
from fastmux.passes.packing import PackedRows
from fastmux.passes.plan import PASS_TOKENS, Layout, plan_passes
from fastmux.passes.runtimes import PackingRuntime, Runtime
from fastmux.passes.tokens import Tokens, ranges

#: How many passes are begun before the first is waited for, so that a GPU computes while the host prepares the next.
_AHEAD = 4


@dataclass(frozen=True)
class Answered:
    """What `Engine.run` returns.

    Attributes:
        logits: The logits: (rows, C), or (tokens, C) of a model that labels tokens; float32, or the model's float64.
        went_on: The rows that the fallback answered, in order.
        seconds: How long the model itself took.
        fallback_seconds: How long the fallback took.
    """

    logits: np.ndarray
    went_on: np.ndarray
    seconds: float
    fallback_seconds: float


@dataclass(frozen=True)
class Engine:
    """Runs rows through a model.

    Args:
        runtime: The model.
        batch_tokens: The positions of a pass, padding counted, at most. Where the runtime's layout says that groups are
            packed, there is none between groups.
        copies: The slots that each row takes, 1 to N; its logits are averaged over them.
        pass_tokens: The overhead of a pass, in positions.
        fallback: Answers the rows of which the model is less sure than ``min_confidence``: a cascade.
        min_confidence: A probability; `fastmux.passes.cascade.confidence` says how it is compared.

    Raises:
        ValueError: copies is out of range, or only one of fallback and min_confidence is given.
    """

    runtime: Runtime
    batch_tokens: int
    copies: int = 1
    pass_tokens: int = PASS_TOKENS
    fallback: Engine | None = None
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        check_copies(self.copies, self.runtime.num_instances)
        if (self.fallback is None) != (self.min_confidence is None):
            raise ValueError("fallback and min_confidence go together, but only one of them was given")

    @property
    def layout(self) -> Layout:
        """The layout of groups with ``copies`` of each row."""
        return replace(self.runtime.layout, rows=self.runtime.num_instances // self.copies)

    def plan(self, lengths: np.ndarray) -> list[np.ndarray]:
        """The rows of each pass, with rows of like length together."""
        return plan_passes(lengths, self.batch_tokens, self.layout, self.pass_tokens)

    def shuffled_plan(self, lengths: np.ndarray, *seed: int) -> list[np.ndarray]:
        """A plan with other groups, drawn at random among rows of similar length: for figures of models whose answers
        depend on the rows of a group."""
        order = np.random.default_rng(seed).permutation(len(lengths))
        return [order[batch] for batch in self.plan(lengths[order])]

    def run(
        self,
        tokens: Tokens,
        plan: Sequence[np.ndarray] | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> Answered:
        """The logits of all rows.

        Args:
            plan: The rows of each pass; by default those of `plan`.
            on_rows: Called after each pass with the number of rows that it answered.

        Raises:
            ValueError: The model returns NaN or infinity.
        """
        begin = time.perf_counter()
        runtime, lengths = self.runtime, tokens.lengths
        rows = int(lengths.sum()) if runtime.per_token else len(lengths)
        out = np.zeros((rows, runtime.num_labels), np.float32)
        went_on: list[np.ndarray] = []
        for batch, logits in self._passes(tokens, self.plan(lengths) if plan is None else plan):
            out = out.astype(logits.dtype, copy=False)
            out[tokens.flat(batch) if runtime.per_token else batch] = logits
            again = batch[self._unsure(logits, lengths[batch])]
            went_on.append(again)
            on_rows(len(batch) - len(again))
        rows_on = np.sort(np.concatenate(went_on)) if went_on else np.zeros(0, np.int64)
        start = time.perf_counter()
        if len(rows_on):
            again = self.fallback.run(tokens.select(rows_on), on_rows=on_rows).logits
            out[tokens.flat(rows_on) if runtime.per_token else rows_on] = again
        check_finite(out)
        return Answered(out, rows_on, start - begin, time.perf_counter() - start)

    def one_pass(self, tokens: Tokens, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run all rows in one pass, without the fallback.

        Args:
            slots: The row in each slot, (G, N).

        Returns:
            The logits as in `Answered`, and whether the model is unsure of each row, (rows), bool.

        Raises:
            ValueError: The model returns NaN or infinity.
        """
        logits = self._start(tokens, np.arange(len(tokens.lengths)), slots)()
        check_finite(logits)
        return logits, self._unsure(logits, tokens.lengths)

    def calibrate(
        self, tokens: Tokens, target_agreement: float, plan: Sequence[np.ndarray] | None = None
    ) -> CascadeThreshold:
        """Find the ``min_confidence`` at which the cascade gives a share of the rows the fallback's label.

        Args:
            tokens: Rows that nothing was trained on.
            target_agreement: The share of the rows that is to get the fallback's label, in (0, 1].
            plan: As for `run`.

        Raises:
            ValueError: No threshold reaches the target; the problem is a regression; or as in `run`.
        """
        return choose_min_confidence(*self.beside_fallback(tokens, plan), target_agreement)

    def beside_fallback(
        self,
        tokens: Tokens,
        plan: Sequence[np.ndarray] | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """How sure the model is of each row, and whether it gives the row the fallback's label: (rows) each.

        Both models answer all rows; the arguments are those of `run`.
        """
        problem, lengths = self.runtime.problem_type, tokens.lengths if self.runtime.per_token else None
        ours = replace(self, fallback=None, min_confidence=None).run(tokens, plan, on_rows).logits
        sure = confidence(ours, problem, lengths)
        return sure, agrees(ours, self.fallback.run(tokens, on_rows=on_rows).logits, problem, lengths)

    def _unsure(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether the model is less sure of each row than ``min_confidence``, (rows), bool; logits as in `Answered`."""
        if self.fallback is None:
            return np.zeros(len(lengths), bool)
        sure = confidence(logits, self.runtime.problem_type, lengths if self.runtime.per_token else None)
        return sure < self.min_confidence

    def _passes(self, tokens: Tokens, plan: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows and the logits of each pass; a few passes are begun ahead."""
        begun: deque[tuple[np.ndarray, Callable[[], np.ndarray]]] = deque()
        with self.runtime.ready():
            for batch in plan:
                begun.append((batch, self._start(tokens, batch)))
                if len(begun) > _AHEAD:
                    rows, wait = begun.popleft()
                    yield rows, wait()
            for rows, wait in begun:
                yield rows, wait()

    def _start(self, tokens: Tokens, rows: np.ndarray, slots: np.ndarray | None = None) -> Callable[[], np.ndarray]:
        """Begin a pass; the function that is returned waits for its logits, which are as in `Answered`."""
        if slots is None:
            slots = group_rows(np.arange(len(rows)), self.runtime.num_instances, self.copies)
        lengths = tokens.lengths[rows]
        width = max(self.layout.least, int(lengths.max()))
        padded = lengths.min() < lengths.max()  # without padding, packing costs a little
        if self.layout.packed and padded and not cast(PackingRuntime, self.runtime).captures(len(slots), width):
            return self._start_packed(tokens, rows, slots)
        begun = self.runtime.start(tokens.padded(rows[slots.ravel()], width, self.runtime.pad_token_id))

        def wait() -> np.ndarray:
            logits = average_slots(begun(), slots, len(rows))
            return logits[np.arange(width) < lengths[:, None]] if self.runtime.per_token else logits

        return wait

    def _start_packed(self, tokens: Tokens, rows: np.ndarray, slots: np.ndarray) -> Callable[[], np.ndarray]:
        """As `_start`, with groups end to end."""
        runtime, lengths = cast(PackingRuntime, self.runtime), tokens.lengths[rows]
        packed = PackedRows.of(tokens, rows[slots], runtime.pad_token_id)
        begun = runtime.start_packed(packed)

        def wait() -> np.ndarray:
            logits = begun()
            if not runtime.per_token:
                return average_slots(logits, slots, len(rows))
            own = ranges((np.cumsum(lengths) - lengths)[slots].ravel(), packed.lengths.ravel())
            return average_slots(logits.reshape(-1, logits.shape[-1])[packed.places], own, int(lengths.sum()))

        return wait


def check_finite(logits: np.ndarray) -> None:
    """Raise ValueError for logits that are NaN or infinite."""
    if not np.isfinite(logits).all():
        raise ValueError("the model returns NaN or infinity; are its weights damaged, or too large for the dtype?")
