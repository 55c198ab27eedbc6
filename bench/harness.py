"""An op of `fastmux.functional` beside the specification, on the same inputs, checked before it is timed.

A benchmark of an op is one file that says what is measured: an `Op`, whose function, specification and inputs are those
of `fastmux.testing.OPS` unless it names others, and a test that runs its cases::

    OP = Op("hadamard_mux", cpu=[{"G": 4, "N": 10, "L": 128, "d": 768}], gpu=GROUPED)

    @OP.cases
    def test_hadamard_mux(measure, case):
        measure(case)

A case is a shape, a dtype and a direction ("forward" without gradients, "forward+backward" for all floating inputs). In
it implementations take turns: each backend the machine has (on a CPU also as `torch.compile` makes it), the op's peers
(others' code for it), ``reference`` in eager mode, and ``reference-compiled`` by `torch.compile`.

On a GPU bfloat16 is measured at every shape, float32 at the first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import fastmux
from bench.machine import DATASHEET
from bench.timing import DEVICE, copy_bandwidth, in_turns, peak_bytes, quartiles, rotated
from fastmux import testing

Sizes = dict[str, int]
Inputs = dict[str, Tensor]
Drawn = tuple[Inputs, Tensor | None]

DIRECTIONS = ("forward", "forward+backward")
COMPILED = "-compiled"
REFERENCES = ("reference", "reference" + COMPILED)

#: So many shapes of an op, its first, are a first pass: one that fills the chip, one as wide as they come, and one
#: group, for what a launch costs.
FIRST_SHAPES = 3
#: What ops of groups, instances and positions are measured at on a GPU: enough groups for some 2^26 elements G * N * L
#: * d, so that every multiprocessor has work and no cache holds it; and one group.
GROUPED = [
    {"G": 64, "N": 10, "L": 128, "d": 768},
    {"G": 16, "N": 10, "L": 128, "d": 4096},
    {"G": 1, "N": 10, "L": 128, "d": 768},
    {"G": 256, "N": 2, "L": 128, "d": 768},
    {"G": 16, "N": 40, "L": 128, "d": 768},
    {"G": 1024, "N": 5, "L": 32, "d": 256},
    {"G": 8, "N": 20, "L": 512, "d": 1024},
]


def ours() -> tuple[str, ...]:
    """The backends of this machine, of which Triton's interpreter is none. On a CPU `torch.compile` makes one loop of
    an op as of the reference; on a GPU a kernel stays what it is."""
    return ("triton", "torch") if DEVICE.type == "cuda" else ("torch", "torch" + COMPILED)


@dataclass(frozen=True)
class Op:
    """An op, its specification, and what a call must move.

    Args:
        name: in `fastmux.testing.OPS`, which has function, reference and inputs where they are not given.
        cpu, gpu: shapes for either device, sizes by the letters of the design (G, N, L, d, ...).
        function: of `fastmux.functional`; called with the inputs by name.
        reference: takes the same inputs by the same names.
        inputs: sizes -> tensors, made on the default device; floating ones are cast to the dtype that is measured.
        gathered: sizes -> elements of floating tensors that forward must read and write, for ops that read rows of
            tables; the default counts each input and the output once. Backward adds the tables' gradients.
        rereads: whether backward needs the inputs again.
        index_bytes: sizes -> bytes of integer inputs read by one direction; default: all, once.
        products: sizes -> multiply-adds of the matrix products forward; backward has twice as many.
        peers: name -> code of others, called and checked as the op is; raises NotImplementedError for sizes that it
            does not take, which are left out.
        layouts: peer -> inputs as it wants them to lie in memory, with the values they have; done before timing.
    """

    name: str
    cpu: list[Sizes]
    gpu: list[Sizes]
    function: Callable[..., Tensor] | None = None
    reference: Callable[..., Tensor] | None = None
    inputs: Callable[..., Inputs] | None = None
    gathered: Callable[..., int] | None = None
    rereads: bool = True
    index_bytes: Callable[..., int] | None = None
    products: Callable[..., int] | None = None
    peers: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    layouts: dict[str, Callable[[Inputs], Inputs]] = field(default_factory=dict)

    def __post_init__(self):
        own = testing.OPS.get(self.name)
        if own is not None:
            defaults = {
                "function": own.op,
                "reference": own.reference,
                "inputs": lambda G, N, L, d: own.draw(G, N, L, d),
            }
            for name, value in defaults.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)

    @property
    def cases(self) -> pytest.MarkDecorator:
        """Parametrizes a test with all cases of this machine's device, those of a first pass first."""
        cases = [
            Case(self, tuple(sizes.items()), dtype, direction, first=i < FIRST_SHAPES and j == 0)
            for i, sizes in enumerate(self.gpu if DEVICE.type == "cuda" else self.cpu)
            for j, dtype in enumerate(_dtypes(i == 0))
            for direction in DIRECTIONS
        ]
        return pytest.mark.parametrize("case", sorted(cases, key=lambda case: not case.first), ids=str)

    def traffic(self, sizes: Sizes, dtype: torch.dtype, direction: str) -> int:
        """Bytes that must move, at least: every input read once, every output written once; of the backward pass the
        upstream gradient, the inputs again, and their gradients."""
        with torch.device("meta"):
            inputs = self.inputs(**sizes)
            output = self.reference(**inputs).numel()
        floating = sum(t.numel() for t in inputs.values() if t.is_floating_point())
        integers = sum(t.nbytes for t in inputs.values() if not t.is_floating_point())
        index_bytes = integers if self.index_bytes is None else self.index_bytes(**sizes)
        elements = floating + output if self.gathered is None else self.gathered(**sizes)
        if "backward" in direction:
            elements += floating * (2 if self.rereads else 1) + output if self.gathered is None else elements + floating
            index_bytes *= 2
        return elements * dtype.itemsize + index_bytes

    def flops(self, sizes: Sizes, direction: str) -> int | None:
        """Operations of the matrix products, for ops that have some."""
        return None if self.products is None else (6 if "backward" in direction else 2) * self.products(**sizes)


def _dtypes(first: bool) -> tuple[torch.dtype, ...]:
    """What an op's first shape, or another, is measured in: float32 on a CPU, bfloat16 where hardware has it."""
    if DEVICE.type != "cuda":
        return (torch.float32,)
    return (torch.bfloat16, torch.float32) if first else (torch.bfloat16,)


@dataclass(frozen=True)
class Case:
    """`op` at one shape, dtype and direction, by all its implementations."""

    op: Op
    shape: tuple[tuple[str, int], ...]
    dtype: torch.dtype
    direction: str
    first: bool = False

    @property
    def sizes(self) -> Sizes:
        return dict(self.shape)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def implementations(self) -> tuple[str, ...]:
        return (*ours(), *self.op.peers, *REFERENCES)

    def __str__(self) -> str:
        shape = "-".join(f"{letter}{size}" for letter, size in self.shape)
        return f"{self.direction}-{shape}-{self.dtype_name}"

    def run(self, seconds: float = 1.0, clock: str = "wall", timed: bool = True) -> Report:
        """Checks every implementation against float64, then times those that are right, in turns.

        Args:
            seconds: of timing; five turns are taken however long they are.
            clock: see `bench.timing.in_turns`.
            timed: False to compile and check alone.
        """
        torch.manual_seed(0)
        torch.compiler.reset()  # what other cases compiled; not later, or what this one has compiled is gone
        first = self._draw()
        sets = [first, *(self._draw() for _ in range(self._copies(first) - 1))]
        report = Report(self)
        gold, plain = (evaluate(self.op.reference, *first, dtype) for dtype in (torch.float64, self.dtype))
        calls, peaks = {}, {}
        for who in self.implementations:
            call = self._call(who)
            own = [self._laid_out(who, *one) for one in sets]
            try:
                if reason := wrong(self, call(*own[0]), gold, plain):
                    report.refused[who] = reason
                    continue
            except NotImplementedError as error:
                if who not in self.op.peers:
                    raise
                report.left_out[who] = str(error)
                continue
            peaks[who] = peak_bytes(lambda call=call, own=own: call(*own[0]))
            calls[who] = [lambda call=call, one=one: call(*one) for one in own]
        del gold, plain
        if timed and calls:
            times = in_turns(calls, seconds, clock=clock)
            report.rows = [self._row(who, times, peaks[who], clock) for who in calls]
        return report

    def _row(self, who: str, times: dict, peak: int, clock: str) -> dict[str, object]:
        """What is recorded of one implementation: microseconds as (first quartile, median, third quartile)."""
        own, compiled = times[who], times.get("reference" + COMPILED)
        traffic = self.op.traffic(self.sizes, self.dtype, self.direction)
        flops = self.op.flops(self.sizes, self.direction)
        median = quartiles(own.best_known)[1]
        row = {
            "direction": self.direction,
            "dtype": self.dtype_name,
            **self.sizes,
            "implementation": who,
            "device_us": [1e6 * s for s in quartiles(own.device)] if own.device else None,
            "wall_us": [1e6 * s for s in quartiles(own.wall)],
            "turns": len(own.wall),
            "minimal_bytes": traffic,
            "peak_bytes": peak,
            "gb_per_s": traffic / median / 1e9,
            "fraction_of_copy": traffic / median / copy_bandwidth(clock),
        }
        if flops is not None:
            row["gflop_per_s"] = flops / median / 1e9
        if compiled is not None:
            ratios = [b / a for a, b in zip(own.best_known, compiled.best_known, strict=True)]
            row["speed_to_compiled"] = list(quartiles(ratios))
        device = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else ""
        for name, bandwidth in DATASHEET.items():
            if name in device:
                row["fraction_of_datasheet"] = traffic / median / bandwidth
        return row

    def _draw(self) -> Drawn:
        """(inputs, upstream gradient): random, and in place before anything is timed."""
        with torch.device(DEVICE):
            inputs = {
                name: t.to(self.dtype) if t.is_floating_point() else t
                for name, t in self.op.inputs(**self.sizes).items()
            }
        if self.direction == "forward":
            return inputs, None
        with torch.no_grad():
            dy = torch.randn_like(self.op.function(**inputs))
        return {name: t.requires_grad_(t.is_floating_point()) for name, t in inputs.items()}, dy

    def _laid_out(self, who: str, inputs: Inputs, dy: Tensor | None) -> Drawn:
        """The same values as an implementation wants them."""
        if who not in self.op.layouts:
            return inputs, dy
        laid_out = self.op.layouts[who]({name: t.detach() for name, t in inputs.items()})
        return {name: t.requires_grad_(inputs[name].requires_grad) for name, t in laid_out.items()}, dy

    def _copies(self, drawn: Drawn) -> int:
        inputs, dy = drawn
        return rotated(sum(t.nbytes for t in (*inputs.values(), *([] if dy is None else [dy]))), DEVICE)

    def _call(self, who: str) -> Callable[[Inputs, Tensor | None], tuple[Tensor, ...]]:
        """(inputs, upstream gradient) -> (output, gradient of each floating input)."""
        function = self.op.reference if who in REFERENCES else self.op.peers.get(who, self.op.function)
        name = who.removesuffix(COMPILED)
        if name != who:
            function = torch.compile(function, dynamic=False)
        # The machine's own choice needs no word, which the host would say at every call.
        chosen = fastmux.backends.choose_backend(torch.empty(0, device=DEVICE))
        forced = name in fastmux.backends.BACKENDS and name != chosen

        def call(inputs: Inputs, dy: Tensor | None) -> tuple[Tensor, ...]:
            with fastmux.backend(name) if forced else nullcontext():
                if dy is None:
                    with torch.no_grad():
                        return (function(**inputs),)
                y = function(**inputs)
                return (y, *torch.autograd.grad(y, [t for t in inputs.values() if t.requires_grad], dy.to(y.dtype)))

        return call


@dataclass
class Report:
    """What came of a case: a row for each implementation, and why the others have none."""

    case: Case
    rows: list[dict] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A table of times, of the share of the bandwidth that a measured copy has and that the data sheet promises, of
        the speed compared with the compiled reference, and of memory."""
        sizes = " ".join(f"{letter}={size}" for letter, size in self.case.shape)
        head = f"{'device us':>11}{'wall us':>11}{'quartiles':>19}{'of copy':>9}{'of data sheet':>15}"
        head += f"{'to compiled':>13}{'MiB':>8}"
        lines = [f"{self.case.op.name}, {self.case.direction}, {sizes}, {self.case.dtype_name}", f"{'':22}{head}"]
        for row in self.rows:
            device = f"{row['device_us'][1]:11.1f}" if row["device_us"] else f"{'-':>11}"
            low, wall, high = row["wall_us"]
            sheet = f"{row['fraction_of_datasheet']:15.2f}" if "fraction_of_datasheet" in row else f"{'':15}"
            ratio = f"{row['speed_to_compiled'][1]:13.2f}" if "speed_to_compiled" in row else f"{'':13}"
            lines.append(
                f"  {row['implementation']:20}{device}{wall:11.1f}{f'{low:.1f}-{high:.1f}':>19}"
                f"{row['fraction_of_copy']:9.2f}{sheet}{ratio}{row['peak_bytes'] / 2**20:8.1f}"
            )
        lines += [f"  {who:20} {reason}" for who, reason in (self.refused | self.left_out).items()]
        return "\n".join(lines)


def wrong(case: Case, ours: tuple[Tensor, ...], gold: tuple[Tensor, ...], plain: tuple[Tensor, ...]) -> str | None:
    """Why a result is not to be timed: output or a gradient is not the reference's."""
    with torch.device("meta"):
        inputs = case.op.inputs(**case.sizes)
    names = ["output", *(f"gradient of {name}" for name, t in inputs.items() if t.is_floating_point())]
    for name, a, b, c in zip(names, ours, gold, plain, strict=len(gold) > 1):
        error, allowed = testing.relative_error(a, b), testing.allowed_error(c, b, case.dtype)
        if not error <= allowed:  # NaN is refused
            return (
                f"{name}: relative error {error:.2e}, allowed {allowed:.2e} in {case.dtype_name}; a wrong result is "
                f"not timed"
            )
    return None


def evaluate(function: Callable, inputs: Inputs, dy: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """(output, gradient of each floating input) in a dtype."""
    leaves = {
        name: t.detach().to(dtype).requires_grad_(dy is not None) if t.is_floating_point() else t
        for name, t in inputs.items()
    }
    with torch.no_grad() if dy is None else nullcontext():
        y = function(**leaves)
    if dy is None:
        return (y,)
    return (y, *torch.autograd.grad(y, [t for t in leaves.values() if t.requires_grad], dy.to(dtype)))
