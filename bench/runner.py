"""Passes of whole models, eager, captured or compiled, and steps of training, timed in turns with the plain encoder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeVar

import torch
import torch._dynamo
from torch import nn

from bench.machine import synchronize
from bench.timing import rotated
from fastmux.passes.runtimes.captured import CudaGraphs
from fastmux.passes.timer import CLOCKS

INPUT_SETS = 4
# Every number of rows is compiled for itself; beyond 8, Dynamo would silently run them eagerly.
torch._dynamo.config.recompile_limit = 256

Key = TypeVar("Key")


class Runner:
    """One model on batches of one size: forward passes, timed.

    Args:
        model: Takes ids (rows, length) and returns logits. No row is padded, so there is no mask: with one, a plain
            encoder whose pass is captured would run masked attention, because nothing can look at a mask then.
        rows: The instances that one pass serves.
        encoder_rows: The sequences that the encoder sees in one pass.
        execution: "eager"; "graphed", a CUDA graph of the eager pass; "compiled", by `torch.compile`, and on a GPU a
            CUDA graph of that.
    """

    def __init__(self, model: nn.Module, rows: int, encoder_rows: int, args: argparse.Namespace, execution: str):
        self.rows, self.encoder_rows, self.device = rows, encoder_rows, args.device
        self.model = torch.compile(model, dynamic=False) if execution == "compiled" else model
        self.graphed = execution != "eager" and args.device.type == "cuda"
        shape = (rows, args.length)
        self.inputs = [torch.randint(args.vocab_size, shape, device=self.device) for _ in range(INPUT_SETS)]
        self.passes, self.min_seconds, self.clock = 1, args.min_seconds, CLOCKS[args.clock]

    def warm_up(self) -> None:
        """Runs once for caches, compilation and allocators, then finds how many passes make a measurement."""
        self._seconds()
        if self.graphed:
            self._capture()
            self._seconds()
        if self.min_seconds:
            self.passes = max(1, round(self.min_seconds / self._seconds()))

    def seconds_per_instance(self) -> float:
        return self._seconds() / (self.passes * self.rows)

    @torch.inference_mode()
    def _capture(self) -> None:
        """From now on a pass copies its ids to where the graph reads them, and replays the graph."""
        static = torch.empty_like(self.inputs[0]).copy_(self.inputs[0])
        launch, output = CudaGraphs().capture(partial(self.model, input_ids=static))

        def replay(input_ids: torch.Tensor) -> object:
            static.copy_(input_ids)
            launch()
            return output

        self.model = replay

    def _seconds(self) -> float:
        synchronize(self.device)
        start = self.clock()
        for i in range(self.passes):
            self._pass(self.inputs[i % INPUT_SETS])
        synchronize(self.device)
        return self.clock() - start

    @torch.inference_mode()
    def _pass(self, ids: torch.Tensor) -> None:
        self.model(input_ids=ids)


class TrainingRunner(Runner):
    """The same for whole steps of training: forward with the labels' loss, backward, AdamW.

    Args:
        per_position: True for labels (rows, length), False for labels (rows).
    """

    def __init__(self, *args, per_position: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        shape = self.inputs[0].shape
        self.labels = torch.randint(2, shape if per_position else shape[:1], device=self.device)

    def _pass(self, ids: torch.Tensor) -> None:
        self.model(input_ids=ids, labels=self.labels).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def fastest(runners: Iterable[Runner], repeats: int, end: float = float("inf")) -> Runner:
    """The runner with the least time for an instance. They take turns, and the best of ``repeats`` counts.

    Args:
        end: A moment of `time.perf_counter`, after which no more runners are tried; the first always is.
    """
    best: dict[Runner, float] = {}
    for runner in runners:
        if best and time.perf_counter() > end:
            break
        runner.warm_up()
        best[runner] = float("inf")
    for _ in range(repeats):
        for runner, seconds in best.items():
            if time.perf_counter() < end:
                best[runner] = min(seconds, runner.seconds_per_instance())
    return min(best, key=best.get)


def measure(plain: Runner, others: Mapping[Key, Runner], repeats: int) -> dict[Key, list[tuple[float, float]]]:
    """For each key and repeat: (seconds per instance, those of the plain encoder around it). The order rotates."""
    samples: dict[Key, list[tuple[float, float]]] = {key: [] for key in others}
    before = plain.seconds_per_instance()
    for key in (key for repeat in range(repeats) for key in rotated(others, repeat)):
        ours, after = others[key].seconds_per_instance(), plain.seconds_per_instance()
        samples[key].append((ours, (before + after) / 2))
        before = after
    return samples
