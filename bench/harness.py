"""Times an op of `fastmux.functional` beside the specification, on the same inputs, after checking that it is right.

A benchmark of an op is one file that says what the op is: an `Op`, and a test that runs its cases::

    OP = Op("hadamard_mux", functional.hadamard_mux, reference.hadamard_mux, ...)

    @OP.cases
    def test_hadamard_mux(benchmark, case):
        case.run(benchmark)

A case is a shape, a dtype, a direction ("forward" without gradients, "forward+backward" for all floating inputs) and an
implementation: each backend the machine has, the op's peers (others' code for it), ``reference`` in eager mode, and
``reference-compiled`` by `torch.compile`. Cases that differ in the implementation alone make one group of
pytest-benchmark, a table to read the comparison off.

On a GPU bfloat16 is measured at every shape, float32 at the first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import fastmux
from bench.machine import default_device, synchronize
from fastmux.testing import TOLERANCE, relative_error

Sizes = dict[str, int]
Inputs = dict[str, Tensor]

DIRECTIONS = ("forward", "forward+backward")
REFERENCES = ("reference", "reference-compiled")

DEVICE = default_device()

#: What ops of groups, instances and positions are measured at on a GPU: enough groups for some 2^26 elements G * N * L
#: * d, so that every multiprocessor has work and no cache holds it; and one group, for what a launch costs.
GROUPED = [
    {"G": 64, "N": 10, "L": 128, "d": 768},
    {"G": 256, "N": 2, "L": 128, "d": 768},
    {"G": 16, "N": 40, "L": 128, "d": 768},
    {"G": 1024, "N": 5, "L": 32, "d": 256},
    {"G": 8, "N": 20, "L": 512, "d": 1024},
    {"G": 16, "N": 10, "L": 128, "d": 4096},
    {"G": 1, "N": 10, "L": 128, "d": 768},
]


def backends() -> tuple[str, ...]:
    """Those of this machine; Triton's interpreter is no benchmark."""
    return ("triton", "torch") if DEVICE.type == "cuda" else ("torch",)


def on_this_machine(cpu: list[Sizes], gpu: list[Sizes]) -> list[Sizes]:
    """The shapes for the device that is measured."""
    return gpu if DEVICE.type == "cuda" else cpu


def dtypes(first: bool) -> tuple[torch.dtype, ...]:
    """What an op's first shape, or another, is measured in: float32 on a CPU, bfloat16 where hardware has it."""
    if DEVICE.type != "cuda":
        return (torch.float32,)
    return (torch.bfloat16, torch.float32) if first else (torch.bfloat16,)


@dataclass(frozen=True)
class Op:
    """An op, its specification, and what a call must move.

    Args:
        name: the op's basename.
        function: of `fastmux.functional`; called with the inputs by name.
        reference: takes the same inputs by the same names.
        shapes: sizes by the letters of the design (G, N, L, d, ...).
        inputs: sizes -> tensors, made with ``torch.randn`` and ``torch.randint`` on the default device; floating
            tensors come in float32 and are cast to the dtype that is measured.
        elements: (sizes, direction) -> how many elements of floating tensors must be read and written at least: each
            input once, each output once; table "Minimal traffic" of the design.
        index_bytes: sizes -> bytes of integer inputs read by one direction.
        flops: (sizes, direction) -> operations of the matrix products, for ops that have some.
        peers: name -> code of others, called and checked as the op is; raises NotImplementedError for sizes that it
            does not take, which are skipped.
        layouts: peer -> inputs as it wants them to lie in memory, with the values they have; done before timing.
    """

    name: str
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    shapes: list[Sizes]
    inputs: Callable[..., Inputs]
    elements: Callable[..., int]
    index_bytes: Callable[..., int] = lambda **sizes: 0
    flops: Callable[..., int] | None = None
    peers: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    layouts: dict[str, Callable[[Inputs], Inputs]] = field(default_factory=dict)

    @property
    def cases(self) -> pytest.MarkDecorator:
        """Parametrizes a test with all cases; those of one group are neighbours, the reference last."""
        cases = [
            Case(self, tuple(sizes.items()), dtype, direction, who)
            for sizes in self.shapes
            for dtype in dtypes(first=sizes is self.shapes[0])
            for direction in DIRECTIONS
            for who in (*backends(), *self.peers, *REFERENCES)
        ]
        return pytest.mark.parametrize("case", cases, ids=str)

    def traffic(self, sizes: Sizes, dtype: torch.dtype, direction: str) -> int:
        """Bytes that must move, at least."""
        passes = 2 if "backward" in direction else 1
        elements = self.elements(direction="forward", **sizes)
        if "backward" in direction:
            elements += self.elements(direction="backward", **sizes)
        return elements * dtype.itemsize + passes * self.index_bytes(**sizes)


@dataclass(frozen=True)
class Case:
    """One benchmark: `op` at one shape, dtype and direction, by one implementation."""

    op: Op
    shape: tuple[tuple[str, int], ...]
    dtype: torch.dtype
    direction: str
    implementation: str

    @property
    def sizes(self) -> Sizes:
        return dict(self.shape)

    @property
    def group(self) -> str:
        shape = " ".join(f"{letter}={size}" for letter, size in self.shape)
        return f"{self.op.name}, {self.direction}, {shape}, {str(self.dtype).removeprefix('torch.')}"

    def __str__(self) -> str:
        shape = "-".join(f"{letter}{size}" for letter, size in self.shape)
        return f"{self.direction}-{shape}-{str(self.dtype).removeprefix('torch.')}-{self.implementation}"

    def run(self, benchmark) -> None:
        """Checks the implementation against float64, then times it; figures beyond the time go to ``extra_info``.

        ``gb_per_s`` is minimal traffic over median time, ``fraction_of_copy`` the same over what a large copy reaches
        in this run, ``peak_bytes`` what a call allocates at most beside its inputs.
        """
        torch.manual_seed(0)
        first = self._draw()
        call = self._call()
        try:
            check(self, call, first)
        except NotImplementedError as error:
            if self.implementation not in self.op.peers:
                raise
            pytest.skip(f"{self.implementation}: {error}")
        peak = peak_bytes(lambda: call(*first))
        sets = itertools.cycle([first, *(self._draw() for _ in range(self._copies(first) - 1))])

        def timed() -> None:
            call(*next(sets))
            synchronize(DEVICE)

        benchmark.group = self.group
        benchmark(timed)

        traffic = self.op.traffic(self.sizes, self.dtype, self.direction)
        copy = copy_bandwidth()
        benchmark.extra_info |= {
            "op": self.op.name,
            "direction": self.direction,
            "implementation": self.implementation,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self.sizes,
            "minimal_bytes": traffic,
            "peak_bytes": peak,
            "copy_gb_per_s": copy / 1e9,
        }
        if benchmark.stats is not None:  # None under --benchmark-disable
            seconds = benchmark.stats.stats.median
            benchmark.extra_info |= {
                "gb_per_s": traffic / seconds / 1e9,
                "fraction_of_copy": traffic / seconds / copy,
            }
            if self.op.flops is not None:
                directions = self.direction.split("+")
                flops = sum(self.op.flops(direction=direction, **self.sizes) for direction in directions)
                benchmark.extra_info["gflop_per_s"] = flops / seconds / 1e9

    def _draw(self) -> tuple[Inputs, Tensor | None]:
        """(inputs, upstream gradient): random, and in place before anything is timed."""
        with torch.device(DEVICE):
            inputs = {
                name: t.to(self.dtype) if t.is_floating_point() else t
                for name, t in self.op.inputs(**self.sizes).items()
            }
        if self.implementation in self.op.layouts:
            inputs = self.op.layouts[self.implementation](inputs)
        if self.direction == "forward":
            return inputs, None
        with torch.no_grad():
            dy = torch.randn_like(self.op.function(**inputs))
        return {name: t.requires_grad_(t.is_floating_point()) for name, t in inputs.items()}, dy

    def _copies(self, drawn: tuple[Inputs, Tensor | None]) -> int:
        inputs, dy = drawn
        return rotated(sum(t.nbytes for t in (*inputs.values(), *([] if dy is None else [dy]))), DEVICE)

    def _function(self) -> Callable[..., Tensor]:
        if self.implementation in REFERENCES:
            return self.op.reference
        return self.op.peers.get(self.implementation, self.op.function)

    def _call(self) -> Callable[[Inputs, Tensor | None], tuple[Tensor, ...]]:
        """(inputs, upstream gradient) -> (output, gradient of each floating input)."""
        function = self._function()
        if self.implementation == "reference-compiled":
            torch.compiler.reset()
            function = torch.compile(function, dynamic=False)
        forced = fastmux.backend(self.implementation) if self.implementation in fastmux.backends.BACKENDS else None

        def call(inputs: Inputs, dy: Tensor | None) -> tuple[Tensor, ...]:
            if dy is None:
                with torch.no_grad():
                    return (function(**inputs),)
            y = function(**inputs)
            return (y, *torch.autograd.grad(y, [t for t in inputs.values() if t.requires_grad], dy.to(y.dtype)))

        if forced is None:
            return call

        def call_on_backend(inputs: Inputs, dy: Tensor | None) -> tuple[Tensor, ...]:
            with fastmux.backend(self.implementation):
                return call(inputs, dy)

        return call_on_backend


def check(case: Case, call: Callable, drawn: tuple[Inputs, Tensor | None]) -> None:
    """Refuses to time a wrong result.

    Raises:
        AssertionError: if output or a gradient is not the reference's; names it, its error and the one allowed.
    """
    inputs, dy = drawn
    ours = call(inputs, dy)
    gold = _evaluate(case.op.reference, inputs, dy, torch.float64)
    plain = _evaluate(case.op.reference, inputs, dy, case.dtype)
    names = ["output", *(f"gradient of {name}" for name, t in inputs.items() if t.requires_grad)]
    for name, a, b, c in zip(names, ours, gold, plain, strict=True):
        allowed = max(TOLERANCE[case.dtype], 2 * relative_error(c, b))
        error = relative_error(a, b)
        if not error <= allowed:  # NaN is refused
            raise AssertionError(
                f"{case.op.name} by {case.implementation}, {name}: relative error {error:.2e}, allowed "
                f"{allowed:.2e} in {case.dtype}; a wrong result is not timed"
            )


def _evaluate(function: Callable, inputs: Inputs, dy: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    leaves = {
        name: t.detach().to(dtype).requires_grad_(dy is not None) if t.is_floating_point() else t
        for name, t in inputs.items()
    }
    with torch.no_grad() if dy is None else nullcontext():
        y = function(**leaves)
    if dy is None:
        return (y,)
    return (y, *torch.autograd.grad(y, [t for t in leaves.values() if t.requires_grad], dy.to(dtype)))


def rotated(size: int, device: torch.device) -> int:
    """Sets of inputs of ``size`` bytes to rotate on a GPU so that its L2 cannot hold what the next call reads."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(64, max(2, -(-4 * cache // max(1, size))))


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that a call holds at a time beyond those allocated before it, by the device's allocator."""
    if DEVICE.type == "cuda":
        synchronize(DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        before = torch.cuda.memory_allocated(DEVICE)
        call()
        synchronize(DEVICE)
        return torch.cuda.max_memory_allocated(DEVICE) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes), default=0)


@functools.cache
def copy_bandwidth() -> float:
    """Bytes per second of a large copy on the device, read and written; the floor that traffic is compared with."""
    source = torch.randn(2**28 if DEVICE.type == "cuda" else 2**25, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(DEVICE)

    from timeit import repeat

    return 2 * source.nbytes / min(repeat(copy, number=1, repeat=10))
