"""Launch parameters tried out in processes of their own: compiled side by side, and what kills a process is refused."""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from bench.harness import Sizes
from bench.problems import problems

#: What a search is about: launcher, shapes, dtypes.
Subject = tuple[str, list[Sizes], list[torch.dtype]]

KILLED = "its process, or one beside it, was killed"


class Compiler:
    """Runs every call of a launcher once under each candidate, so that Triton's cache has them when they are timed.

    Args:
        device: on which the calls run.
        workers: processes; each holds one set of inputs.
    """

    def __init__(self, device: torch.device, workers: int | None = None):
        self.device, self.workers = device, workers or max(1, min(8, (os.cpu_count() or 2) // 2))
        self._pool = self._start()

    def refusals(self, subject: Subject, candidates: list[dict[str, int]]) -> list[str | None]:
        """Why each candidate cannot be had, or None."""
        key = (subject[0], tuple(tuple(sizes.items()) for sizes in subject[1]), tuple(subject[2]))
        reasons: list[str | None] = [KILLED] * len(candidates)
        try:
            futures = [self._pool.submit(attempt, key, candidate, self.device) for candidate in candidates]
            for i, future in enumerate(futures):
                reasons[i] = future.result()
        except BrokenProcessPool:  # of those not answered for, all are refused: which of them it was is not known
            self.close()
            self._pool = self._start()
        return reasons

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))


def attempt(key: tuple, candidate: dict[str, int], device: torch.device) -> str | None:
    """Runs in a worker: why a launcher's calls do not compile or launch under a candidate, or None."""
    from fastmux.kernels.common import launch_table

    for problem in _problems(key, device):
        try:
            with launch_table.using({key[0]: candidate}):
                problem.calls[0]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        except Exception as error:  # a compiler that gives up raises what it likes
            return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@functools.lru_cache(maxsize=1)
def _problems(key: tuple, device: torch.device) -> list:
    launcher, listed, dtypes = key
    return list(problems(launcher, [dict(sizes) for sizes in listed], dtypes, device, sets=1))
