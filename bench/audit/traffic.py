"""Count the bytes that the kernels move and the operations they do, by running them under Triton's interpreter.

    python -m bench.audit.traffic --dtype bf16

Every load, store and atomic passes through a cache of `CACHE` bytes in lines of 64, least recently used out first and
written back: a multiprocessor's share of an L2 of 50 MB, which holds parameters and what a program has just read, but
no embedding table. Operations are those on floating tensors, elementwise and in products, the latter in float32 as if
there were no tensor cores; sums over rows are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import OrderedDict

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from bench.audit.launches import calls

# Small enough to interpret. Many groups for embedding_mux, whose partial sums are one row a chunk of groups, and long
# rows of positions for pair_norm, whose partial sums are one row a group: in both, as in real batches. No more of
# pair_norm_head than the cache holds: its programs that share logits run side by side on a GPU, one by one here.
WIDTH = 256
DEFAULT_SIZES = (4, 4, 32)  # G, N, L
SIZES = {"embedding_mux": (32, 4, 8), "pair_norm": (4, 4, 128), "pair_norm_head": (4, 2, 48)}
LINE, CACHE = 64, 1 << 18


class Counter:
    """What has been moved and computed since the last reset."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.lines: OrderedDict[int, bool] = OrderedDict()  # line -> whether it is to be written back
        self.bytes = self.flops = 0

    def touch(self, addresses: np.ndarray, mask: np.ndarray, write: bool) -> None:
        lines = addresses[np.broadcast_to(mask, addresses.shape)].astype(np.int64) // LINE
        for line in lines[np.diff(lines, prepend=-1) != 0].tolist():  # neighbours on one line are one access
            dirty = self.lines.pop(line, None)
            if dirty is None and not write:
                self.bytes += LINE
            self.lines[line] = bool(dirty) or write
            if len(self.lines) > CACHE // LINE:
                self.bytes += LINE * self.lines.popitem(last=False)[1]

    def flush(self) -> None:
        self.bytes += LINE * sum(self.lines.values())
        self.lines.clear()


def install(counter: Counter) -> None:
    """Count what the interpreter's builder executes."""

    def wrap(name, before):
        original = getattr(InterpreterBuilder, name)

        def counted(self, *arguments):
            before(*arguments)
            return original(self, *arguments)

        setattr(InterpreterBuilder, name, counted)

    def computed(x, *_):
        if x.dtype.scalar.is_floating():
            counter.flops += x.data.size

    def multiplied(a, b, *_):
        counter.flops += 2 * a.data.size * b.data.shape[-1]

    wrap("create_masked_load", lambda p, mask, *_: counter.touch(p.data, mask.data, False))
    wrap("create_masked_store", lambda p, value, mask, *_: counter.touch(p.data, mask.data, True))
    wrap("create_atomic_rmw", lambda op, p, value, mask, *_: counter.touch(p.data, mask.data, True))
    wrap("binary_op", computed)
    wrap("unary_op", computed)
    wrap("create_dot", multiplied)


def count(dtype: torch.dtype) -> list[dict]:
    """{launcher, bytes, minimal_bytes, flops, elements} of every call, in the order of `bench.audit.launches.calls`;
    elements are G * N * L * d."""
    counter = Counter()
    install(counter)
    by_sizes = {sizes: calls(dtype, WIDTH, *sizes) for sizes in {DEFAULT_SIZES, *SIZES.values()}}
    counted = []
    for i, call in enumerate(by_sizes[DEFAULT_SIZES]):
        sizes = SIZES.get(call.module.__name__.rpartition(".")[2], DEFAULT_SIZES)
        call = by_sizes[sizes][i]
        counter.reset()
        getattr(call.module, call.launcher)(*call.arguments)
        counter.flush()
        counted.append(
            {
                "launcher": call.launcher,
                "bytes": counter.bytes,
                "minimal_bytes": call.minimal_bytes,
                "flops": counter.flops,
                "elements": math.prod(sizes) * WIDTH,
            }
        )
    return counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    json.dump(count(kinds[parser.parse_args().dtype]), sys.stdout, indent=1)
