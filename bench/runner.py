"""Passes of whole models, eager, captured or compiled, and steps of training, timed in turns with the plain encoder."""

from __future__ import annotations

import argparse
import time

import torch
import torch._dynamo
from torch import nn
from tqdm.auto import tqdm

from bench.machine import synchronize

INPUT_SETS = 4
# Every number of rows is compiled for itself; beyond 8, Dynamo would silently run them eagerly.
torch._dynamo.config.recompile_limit = 256


class Runner:
    """One model on batches of one size: forward passes, timed.

    Args:
        model: takes ids and mask (rows, length), returns logits.
        rows: of a batch, which are the instances that one pass serves.
        encoder_rows: sequences the encoder sees in one pass.
        execution: "eager"; "graphed", a CUDA graph of the eager pass; "compiled", by `torch.compile`, and on a GPU a
            CUDA graph of that.
    """

    def __init__(self, model: nn.Module, rows: int, encoder_rows: int, args: argparse.Namespace, execution: str):
        self.rows, self.encoder_rows, self.device = rows, encoder_rows, args.device
        self.model = torch.compile(model, dynamic=False) if execution == "compiled" else model
        self.graphed = execution != "eager" and args.device.type == "cuda"
        shape = (rows, args.length)
        self.inputs = [
            (
                torch.randint(args.vocab_size, shape, device=self.device),
                torch.ones(shape, dtype=torch.long, device=self.device),
            )
            for _ in range(INPUT_SETS)
        ]
        self.passes = 1
        self.min_seconds = args.min_seconds
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter

    def warm_up(self) -> None:
        """Runs once for caches, compilation and allocators, then sees how many passes make a measurement."""
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
        """From now on a pass copies ids and mask to where the graph reads them, and replays it."""
        static = [torch.empty_like(t).copy_(t) for t in self.inputs[0]]
        eager, graph = self.model, torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            eager(input_ids=static[0], attention_mask=static[1])
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            output = eager(input_ids=static[0], attention_mask=static[1])

        def replay(**inputs: torch.Tensor) -> object:
            for ours, given in zip(static, inputs.values(), strict=True):
                ours.copy_(given)
            graph.replay()
            return output

        self.model = replay

    @torch.inference_mode()
    def _seconds(self) -> float:
        synchronize(self.device)
        start = self.clock()
        for i in range(self.passes):
            ids, mask = self.inputs[i % INPUT_SETS]
            self.model(input_ids=ids, attention_mask=mask)
        synchronize(self.device)
        return self.clock() - start


class TrainingRunner(Runner):
    """The same, timed over whole steps of training: forward with the labels' loss, backward, AdamW.

    Args:
        per_position: whether labels are (rows, length) or (rows).
    """

    def __init__(self, *args, per_position: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        ids, _ = self.inputs[0]
        self.labels = torch.randint(2, ids.shape if per_position else ids.shape[:1], device=self.device)

    def _seconds(self) -> float:
        synchronize(self.device)
        start = self.clock()
        for i in range(self.passes):
            ids, mask = self.inputs[i % INPUT_SETS]
            self.model(input_ids=ids, attention_mask=mask, labels=self.labels).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        synchronize(self.device)
        return self.clock() - start


def fastest(runners: list[Runner], repeats: int, progress: tqdm, end: float = float("inf")) -> Runner:
    """The runner with the least time for an instance; measured in turns, the best of ``repeats`` each.

    What has not been tried at ``end``, of `time.perf_counter`, is passed over, but for the first.
    """
    tried = []
    for runner in runners:
        if tried and time.perf_counter() > end:
            break
        runner.warm_up()
        tried.append(runner)
        progress.update()
    best = dict.fromkeys(range(len(tried)), float("inf"))
    for _ in range(repeats):
        for i, runner in enumerate(tried):
            if time.perf_counter() > end:
                break
            best[i] = min(best[i], runner.seconds_per_instance())
            progress.update()
    return runners[min(best, key=best.get)]


def measure(
    plain: Runner, others: dict[tuple, Runner], repeats: int, progress: tqdm
) -> dict[tuple, list[tuple[float, float]]]:
    """By key, for every repeat: (seconds per instance, those of the plain encoder around it). The order rotates."""
    samples = {key: [] for key in others}
    keys = list(others)
    before = plain.seconds_per_instance()
    for repeat in range(repeats):
        shift = repeat * len(keys) // repeats
        for key in keys[shift:] + keys[:shift]:
            ours = others[key].seconds_per_instance()
            after = plain.seconds_per_instance()
            samples[key].append((ours, (before + after) / 2))
            before = after
            progress.update()
    return samples
