"""Count the bytes that the kernels move, by running them under Triton's interpreter, in bfloat16.

    python -m bench.audit.traffic        # prints JSON

Every load, store and atomic passes through a cache of `CACHE` bytes in lines of 64. The line that was used least
recently leaves first, and is written back if it changed. The cache is a multiprocessor's share of an L2 of 50 MB: it
holds parameters and what a program has just read, but no embedding table.
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from bench.audit.launches import calls
from fastmux.testing import quick_interpreter

# Small enough to interpret. Many groups for embedding_mux, whose partial sums are one row a chunk of groups, and long
# rows of positions for pair_norm, whose partial sums are one row a group: in both, as in real batches. No more of
# pair_norm_head than the cache holds: its programs that share logits run side by side on a GPU, one by one here.
WIDTH = 256
DEFAULT_SIZES = (4, 4, 32)  # G, N, L
SIZES = {"embedding_mux": (32, 4, 8), "pair_norm": (4, 4, 128), "pair_norm_head": (4, 2, 32)}
LINE, CACHE = 64, 1 << 18


class Counter:
    """The bytes that have moved since the last `flush`."""

    def __init__(self):
        self.lines: OrderedDict[int, bool] = OrderedDict()  # line -> whether it has to be written back
        self.bytes = 0

    def touch(self, addresses: np.ndarray, mask: np.ndarray, write: bool) -> None:
        lines = addresses[np.broadcast_to(mask, addresses.shape)].astype(np.int64) // LINE
        for line in lines[np.diff(lines, prepend=-1) != 0].tolist():  # neighbours on one line are one access
            dirty = self.lines.pop(line, None)
            if dirty is None and not write:
                self.bytes += LINE
            self.lines[line] = bool(dirty) or write
            if len(self.lines) > CACHE // LINE:
                self.bytes += LINE * self.lines.popitem(last=False)[1]

    def flush(self) -> int:
        """Empties the cache and returns all bytes that have moved."""
        moved, self.bytes = self.bytes + LINE * sum(self.lines.values()), 0
        self.lines.clear()
        return moved


def install(counter: Counter) -> None:
    """Count what the interpreter's builder moves."""
    quick_interpreter()

    def wrap(name, before):
        original = getattr(InterpreterBuilder, name)

        def counted(self, *arguments):
            before(*arguments)
            return original(self, *arguments)

        setattr(InterpreterBuilder, name, counted)

    wrap("create_masked_load", lambda p, mask, *_: counter.touch(p.data, mask.data, False))
    wrap("create_masked_store", lambda p, value, mask, *_: counter.touch(p.data, mask.data, True))
    wrap("create_atomic_rmw", lambda op, p, value, mask, *_: counter.touch(p.data, mask.data, True))


def count() -> list[dict]:
    """{launcher, bytes, minimal_bytes} of every call, in the order of `bench.audit.launches.calls`."""
    counter = Counter()
    install(counter)
    by_sizes = {sizes: calls(torch.bfloat16, WIDTH, *sizes) for sizes in {DEFAULT_SIZES, *SIZES.values()}}
    counted = []
    for i, call in enumerate(by_sizes[DEFAULT_SIZES]):
        call = by_sizes[SIZES.get(call.module.__name__.rpartition(".")[2], DEFAULT_SIZES)][i]
        getattr(call.module, call.launcher)(*call.arguments)
        counted.append({"launcher": call.launcher, "bytes": counter.flush(), "minimal_bytes": call.minimal_bytes})
    return counted


if __name__ == "__main__":
    json.dump(count(), sys.stdout, indent=1)
