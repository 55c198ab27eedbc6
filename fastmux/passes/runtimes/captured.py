"""Passes whose kernels a CUDA graph launches all at once.

In a small pass the host takes longer to launch the kernels than a GPU to run them. A graph holds the launches of one
size of pass, so `CapturedPasses` fills small passes up to one of a few sizes. What a pass answers depends on its size,
never on whether that was captured yet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastmux.functional.derived import Held, fixed_weights
from fastmux.passes.plan import Layout

#: Passes of more positions are not captured: there, by estimate, a GPU takes longer than the host. No GPU was there to
#: measure it on.
CAPTURED_POSITIONS = 8192
#: The least length that rows are filled up to.
_LEAST_LENGTH = 16
#: A size is captured when it is met for this time, as that takes as long as a few passes.
_MET = 2

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Graphs(Protocol):
    """Captures functions of tensors that stay where they are."""

    def capture(self, run: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """Run a function, and capture what it launches.

        Returns:
            A function that launches it again, and the result, which each launch writes anew.
        """


class CudaGraphs:
    """Graphs that share their memory: a result is to be copied, on the same stream, before another graph is launched.

    They are of the device that is the current one.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    def capture(self, run: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """See `Graphs`."""
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self._side = side = self._side or torch.cuda.Stream()
        side.wait_stream(here)
        try:
            with torch.cuda.stream(side):  # kernels are compiled and caches are filled, which cannot be captured
                run()
            here.wait_stream(side)
            with torch.cuda.graph(graph, self._pool, side, capture_error_mode="thread_local"):
                result = run()
        finally:
            torch.cuda.set_stream(here)  # a capture that fails leaves its own stream
        self._pool = graph.pool()
        return graph.replay, result


@dataclass(frozen=True)
class Size:
    """The size of a pass: its groups, the positions of its rows, and what it is given beside token ids."""

    groups: int
    length: int
    masked: bool
    typed: bool

    @property
    def names(self) -> list[str]:
        """The inputs."""
        return ["input_ids", *["attention_mask"] * self.masked, *["token_type_ids"] * self.typed]


@dataclass(frozen=True)
class _Captured:
    """A graph, the tensor (inputs, rows, L) that it reads, and the one that it writes."""

    inputs: Tensor
    launch: Callable[[], object]
    result: Tensor


class CapturedPasses:
    """The passes of a model that are small enough to be captured.

    Args:
        graphs: What captures them.
        run: Maps the inputs of a pass, by name, to its logits.
        weights: All tensors of the model.
        layout: How it lays out groups.
        room: The most positions of a row.
        pad_token_id: What fills rows up.
        stretches: Whether padding behind a row changes no answer. Otherwise rows keep their length.
    """

    def __init__(
        self,
        graphs: Graphs,
        run: Callable[[dict[str, Tensor]], Tensor],
        weights: Callable[[], Iterable[Tensor]],
        layout: Layout,
        room: int,
        pad_token_id: int,
        stretches: bool,
    ):
        self._graphs, self._run, self._weights, self._layout = graphs, run, weights, layout
        self._room, self._pad_token_id, self._stretches = room, pad_token_id, stretches
        self._captured: dict[Size, _Captured] = {}
        self._met: Counter[Size] = Counter()
        self._held, self._state = Held(), self._versions()
        self._prepared = self._failed = False
        self._typed = False

    def size_of(self, inputs: dict[str, np.ndarray]) -> Size | None:
        """The size that a pass is filled up to; None if it is too large."""
        rows, length = inputs["input_ids"].shape
        groups, filled = rows // self._layout.rows, self._filled_length(length)
        if not self.fits(groups, length):
            return None
        masked = filled > length or not inputs["attention_mask"].all()
        return Size(_power(groups), filled, masked, "token_type_ids" in inputs)

    def fits(self, groups: int, length: int) -> bool:
        """Whether a pass of so many groups, of rows of that length, is small enough, once it is filled up."""
        filled = Size(_power(groups), self._filled_length(length), True, False)
        return groups > 0 and length <= self._room and self._within(filled)

    def start(self, size: Size, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """Begin a pass that is filled up to ``size``; the function that is returned waits for its logits, without what
        was filled in."""
        rows, length = inputs["input_ids"].shape
        if self._prepared and size not in self._captured:
            size = replace(size, masked=True, typed=self._typed)
        elif not self._prepared:
            self._met[size] += 1
            if self._met[size] == _MET:
                self._capture(size)
        device, given = self._device(), self._filled(size, inputs)
        captured = self._captured.get(size)
        if captured is None:
            moved = given.to(device, non_blocking=True)
            logits = self._run(dict(zip(size.names, moved.unbind(), strict=True)))
        else:
            captured.inputs.copy_(given, non_blocking=True)
            captured.launch()
            logits = captured.result if device.type == "cuda" else captured.result.clone()
        wait = later(logits)
        return lambda: wait()[:rows, :length] if logits.dim() == 3 else wait()[:rows]

    def prepare(self, length: int, positions: int, typed: bool) -> None:
        """Capture all sizes of rows of up to so many tokens, in passes of up to so many positions; no further ones are
        captured later."""
        self._typed = typed
        least = self._layout.least
        lengths = {self._filled_length(one) for one in range(least, max(least, length) + 1)}
        for filled in sorted(lengths) if self._stretches else [least]:
            # No pass that is filled up to a size is smaller than half of it each way.
            size, least_pass = Size(1, filled, True, typed), Size(1, filled // 2, True, typed)
            while self._within(size) and self._within(least_pass, positions):
                self._capture(size)
                size, least_pass = replace(size, groups=2 * size.groups), replace(least_pass, groups=size.groups + 1)
        self._prepared = True
        log.info("captured passes of %d sizes", len(self._captured))

    def check_weights(self) -> None:
        """Forget all graphs if weights were replaced or written to since they were captured. What is written to their
        ``.data`` nobody sees."""
        state = self._versions()
        if state != self._state:
            self._captured.clear()
            self._met.clear()
            self._held, self._state, self._prepared = Held(), state, False

    def _capture(self, size: Size) -> None:
        if self._failed:
            return
        shape = (len(size.names), size.groups * self._layout.rows, size.length)
        inputs = torch.ones(shape, dtype=torch.long, device=self._device())
        if size.typed:
            inputs[-1] = 0
        given = dict(zip(size.names, inputs.unbind(), strict=True))
        try:
            # What depends on weights alone is computed by the first run, and the graph reads it where it is held.
            with fixed_weights(self._held):
                launch, result = self._graphs.capture(lambda: self._run(given))
        except Exception as error:  # of whatever a model calls
            self._failed = True
            reason = str(error).partition("\n")[0]
            log.warning("the model cannot be captured and runs eagerly: %s: %s", type(error).__name__, reason)
        else:
            self._captured[size] = _Captured(inputs, launch, result)

    def _filled(self, size: Size, inputs: dict[str, np.ndarray]) -> Tensor:
        """The inputs of a size, (inputs, rows, L): rows with padding behind them, and then again from the first."""
        rows, length = inputs["input_ids"].shape
        shape = (len(size.names), size.groups * self._layout.rows, size.length)
        filled = torch.zeros(shape, dtype=torch.long, pin_memory=self._device().type == "cuda")
        again = np.arange(shape[1]) % rows
        for name, part in zip(size.names, filled.numpy(), strict=True):
            if name == "input_ids":
                part[:, length:] = self._pad_token_id
            if name in inputs:
                part[:, :length] = inputs[name][again]
        return filled

    def _filled_length(self, length: int) -> int:
        """The length that rows are filled up to: 16, 24, 32, 48, 64, 96, ..., or as many as there is room for."""
        if not self._stretches:
            return length
        most = _power(max(length, _LEAST_LENGTH))
        between = most * 3 // 4
        return max(length, min(self._room, between if length <= between and most > _LEAST_LENGTH else most))

    def _within(self, size: Size, positions: int = CAPTURED_POSITIONS) -> bool:
        taken = size.groups * self._layout.sequences * (size.length + self._layout.prefix)
        return taken <= min(positions, CAPTURED_POSITIONS)

    def _device(self) -> torch.device:
        return next(iter(self._weights())).device

    def _versions(self) -> list[tuple[int, object]]:
        """Where each weight is and how often it was written to; of an inference tensor nobody knows."""
        return [(t.data_ptr(), object() if t.is_inference() else t._version) for t in self._weights()]


def later(logits: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy logits to the host; the function that is returned waits for them."""
    if logits.device.type != "cuda":
        return lambda: logits.cpu().numpy()
    host = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    host.copy_(logits, non_blocking=True)
    there = torch.cuda.Event()
    there.record()

    def wait() -> np.ndarray:
        there.synchronize()
        return host.numpy()

    return wait


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(0, count - 1).bit_length()
