"""An op of `fastmux.functional` beside its specification, on the same inputs, checked before it is timed.

`bench.ops.listed` has an `Op` for each op that is measured. Its function, specification and inputs are those of
`fastmux.testing.OPS` unless it names others.

A case is a shape, a dtype and a direction ("forward" without gradients, "forward+backward" for all floating inputs).
Its implementations take turns: each backend of the machine (on a CPU also as `torch.compile` makes it), the op's peers
(others' code for it), ``reference`` in eager mode, and ``reference-compiled`` by `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

import fastmux
from bench.machine import DATASHEET
from bench.timing import DEVICE, copy_bandwidth, in_turns, input_sets, peak_bytes, quartiles
from fastmux import testing
from fastmux.training.formatting import table

Sizes = dict[str, int]
Inputs = dict[str, Tensor]
Drawn = tuple[Inputs, Tensor | None]

DIRECTIONS = ("forward", "forward+backward")
COMPILED = "-compiled"
REFERENCES = ("reference", "reference" + COMPILED)

#: A first pass has so many shapes of each op, its first: one that fills the chip, one that is as wide as encoders get,
#: and one group, which shows what a launch costs.
FIRST_SHAPES = 3


def ours() -> tuple[str, ...]:
    """The backends of this machine; Triton's interpreter is none of them. On a CPU `torch.compile` fuses an op as it
    fuses the reference; on a GPU a kernel stays what it is."""
    return ("triton", "torch") if DEVICE.type == "cuda" else ("torch", "torch" + COMPILED)


@dataclass(frozen=True)
class Op:
    """An op, its specification, and what a call must move.

    Args:
        name: A key of `fastmux.testing.OPS`, from which function, reference and inputs come if they are not given.
        cpu, gpu: The shapes for either device, as sizes by the letters of the design (G, N, L, d, ...).
        function: The op of `fastmux.functional`, called with the inputs by name.
        reference: The specification, which takes the same inputs by the same names.
        inputs: Makes tensors of given sizes on the default device; floating ones are cast to the dtype of the case.
        gathered: For ops that read rows of tables, the elements of floating tensors that forward must read and write.
            By default each input and the output counts once. Backward adds the tables' gradients.
        rereads: Whether backward needs the inputs again.
        index_bytes: The bytes of integer inputs that one direction reads; by default all of them, once.
        products: The multiply-adds of the matrix products forward; backward has twice as many.
        peers: Code of others by name, called and checked as the op is. It raises NotImplementedError for sizes that it
            does not take; these are left out.
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

    def __post_init__(self):
        if own := testing.OPS.get(self.name):
            usual = {"function": own.op, "reference": own.reference, "inputs": lambda G, N, L, d: own.draw(G, N, L, d)}
            vars(self).update({name: value for name, value in usual.items() if getattr(self, name) is None})

    def cases(self) -> list[Case]:
        """All cases of this machine's device: float32 on a CPU; on a GPU bfloat16, and the first shape also float32."""
        gpu = DEVICE.type == "cuda"
        return [
            Case(self, tuple(sizes.items()), dtype, direction, rank=i + len(self.gpu) * j)
            for i, sizes in enumerate(self.gpu if gpu else self.cpu)
            for j, dtype in enumerate([torch.bfloat16] * gpu + [torch.float32] * (not gpu or i == 0))
            for direction in DIRECTIONS
        ]

    def traffic(self, sizes: Sizes, dtype: torch.dtype, direction: str) -> int:
        """The least bytes that move: every input is read once and every output written once; backward reads the
        upstream gradient and the inputs again, and writes their gradients."""
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
        """The operations of the matrix products, or None for ops that have none."""
        return None if self.products is None else (6 if "backward" in direction else 2) * self.products(**sizes)


@dataclass(frozen=True)
class Case:
    """`op` at one shape, dtype and direction, by all its implementations.

    Args:
        rank: Cases of all ops run in the order of their ranks; those below `FIRST_SHAPES` are a first pass.
    """

    op: Op
    shape: tuple[tuple[str, int], ...]
    dtype: torch.dtype
    direction: str
    rank: int = 0

    @property
    def sizes(self) -> Sizes:
        return dict(self.shape)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        shape = "-".join(f"{letter}{size}" for letter, size in self.shape)
        return f"{self.direction}-{shape}-{self.dtype_name}"

    def run(self, seconds: float = 1.0, clock: str = "wall", timed: bool = True) -> Report:
        """Checks every implementation against float64, then times those that are right, in turns.

        Args:
            seconds: How long to time; at least five turns are taken.
            clock: See `bench.timing.in_turns`.
            timed: False to compile and check only.
        """
        torch.manual_seed(0)
        torch.compiler.reset()  # what other cases compiled; not later, or what this one has compiled is gone
        first = self._draw()
        size = sum(t.nbytes for t in (*first[0].values(), first[1]) if t is not None)
        sets = [first, *(self._draw() for _ in range(input_sets(size, DEVICE) - 1))]
        report = Report(self)
        gold, plain = (evaluate(self.op.reference, *first, dtype) for dtype in (torch.float64, self.dtype))
        calls, peaks = {}, {}
        for who in (*ours(), *self.op.peers, *REFERENCES):
            call = self._call(who)
            try:
                if reason := wrong(self, call(*first), gold, plain):
                    report.refused[who] = reason
                    continue
            except NotImplementedError as error:
                if who not in self.op.peers:
                    raise
                report.left_out[who] = str(error)
                continue
            peaks[who] = peak_bytes(partial(call, *first))
            calls[who] = [partial(call, *one) for one in sets]
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
        """Random (inputs, upstream gradient), made before anything is timed."""
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

    def _call(self, who: str) -> Callable[[Inputs, Tensor | None], tuple[Tensor, ...]]:
        """(inputs, upstream gradient) -> (output, gradient of each floating input)."""
        function = self.op.reference if who in REFERENCES else self.op.peers.get(who, self.op.function)
        name = who.removesuffix(COMPILED)
        if name != who:
            function = torch.compile(function, dynamic=False)
        # Forcing the backend that the machine chooses anyway would cost the host time at every call.
        chosen = fastmux.backends.choose_backend(torch.empty(0, device=DEVICE))
        forced = name in fastmux.backends.BACKENDS and name != chosen

        def call(inputs: Inputs, dy: Tensor | None) -> tuple[Tensor, ...]:
            with fastmux.backend(name) if forced else nullcontext():
                return results(function, inputs, dy)

        return call


@dataclass
class Report:
    """The result of a case: a row for each implementation, and why the others have none."""

    case: Case
    rows: list[dict] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        case = self.case
        sizes = " ".join(f"{letter}={size}" for letter, size in case.shape)
        reasons = [f"{who}: {reason}" for who, reason in (self.refused | self.left_out).items()]
        return "\n".join(
            [f"{case.op.name}, {case.direction}, {sizes}, {case.dtype_name}", of_cases(self.rows), *reasons]
        )


def of_cases(rows: list[dict], cases: bool = False) -> str:
    """Times, the share of the bandwidth that a measured copy has and that the data sheet promises, the speed compared
    with the compiled reference, and memory; with ``cases``, the case of each row."""

    def case(row: dict) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in row.items() if len(name) == 1)
        return f"{sizes}, {row['dtype']}, {row['direction']}"

    columns = ({"case": case} if cases else {}) | {"by": "{implementation}", "device us": "{device_us[1]:.1f}"}
    columns["wall us"] = "{wall_us[1]:.1f} ({wall_us[0]:.1f} to {wall_us[2]:.1f})"
    columns |= {"of copy": "{fraction_of_copy:.2f}", "of data sheet": "{fraction_of_datasheet:.2f}"}
    columns["to compiled"] = "{speed_to_compiled[1]:.2f}"
    return table(rows, columns | {"MiB": lambda row: f"{row['peak_bytes'] / 2**20:.1f}"})


def section(result: dict) -> Iterator[str]:
    """The page's section on the file of an op."""
    yield f"Every case and implementation of `{result['op']}`; {result['clock']} clock. `pytest bench/ops`."
    yield of_cases(result["rows"], cases=True)
    for who, reason in result["refused"].items():
        yield f"- {who}: {reason}"


def wrong(case: Case, ours: tuple[Tensor, ...], gold: tuple[Tensor, ...], plain: tuple[Tensor, ...]) -> str | None:
    """Why a result must not be timed: its output or a gradient is not the reference's. None if all is right."""
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
    """`results` in another dtype."""
    cast = {name: t.detach().to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}
    leaves = {name: t.requires_grad_(inputs[name].requires_grad) for name, t in cast.items()}
    return results(function, leaves, dy)


def results(function: Callable, inputs: Inputs, dy: Tensor | None) -> tuple[Tensor, ...]:
    """The output, and with an upstream gradient the gradient of each floating input."""
    with torch.set_grad_enabled(dy is not None):
        y = function(**inputs)
    if dy is None:
        return (y,)
    return (y, *torch.autograd.grad(y, [t for t in inputs.values() if t.requires_grad], dy.to(y.dtype)))
