"""Find better launch parameters for the GPU that is here, and write them where the launchers look for them.

    python -m bench.tune                                   # every launcher, in bfloat16 at two shapes
    python -m bench.tune --ops hadamard_mux --shapes 6 --dtypes bf16 fp32
    python -m bench.tune --worst ratios.json               # the two ops that `bench.ops` found slowest
    python -m bench.tune --budget 420                      # seconds, shared among the launchers
    python -m bench.tune --output /tmp/sm_90.json          # for a look first; the launchers do not read it there

The defaults of ``kernels/common/launch_table.py`` were chosen by compiling, not by timing. For each launcher the search
starts from the default and halves or doubles one parameter at a time, as long as that helps. It times the calls of
``bench/audit/launches.py`` at the shapes of the op's benchmark that have more than one group: medians of `do_bench` of
Triton, over inputs that rotate through more than the L2 holds.

A candidate has to give what the default gives. It is kept if it is faster than the best so far by more than noise in
the geometric mean over all calls, and slower by more than noise in none of them. Noise is the difference between two
timings of the default, in the mean and in each call, and at least 2 %. At the end the best candidate has to beat the
default by the same rule, when both are timed once more.

Before any candidate is timed, all are compiled and run side by side in other processes. A candidate that does not
compile, or kills its process, is refused. A launcher that is out of time keeps the best that it has found.

The table is written after each launcher, to ``kernels/tuned/<architecture>.json``, with device, versions and command
beside it. Launchers that were not asked for keep their entries there. Running processes keep the parameters they have.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from bench.harness import Sizes
from bench.machine import default_device, machine_info, synchronize
from bench.ops import listed
from bench.timing import do_bench, input_sets
from fastmux.files import read_json, write_json
from fastmux.testing import TOLERANCE, relative_error
from fastmux.training.formatting import table
from fastmux.training.programs import options_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
OPS = ("hadamard_mux", "walsh_hadamard_mux", "embedding_mux", "pair_norm")
#: A smaller difference is noise, however well two timings agree.
LEAST_NOISE = 0.02
KILLED = "its process, or one beside it, was killed"

Tile = dict[str, int]
#: Takes calls that do the same work on inputs that rotate, and returns the seconds of one.
Timer = Callable[[Sequence[Callable[[], object]]], float]


@dataclass(frozen=True)
class Subject:
    """What a search is about: a launcher, and the shapes, dtypes and device on which it is called."""

    launcher: str
    shapes: list[Sizes]
    dtypes: list[torch.dtype]
    device: torch.device

    def problems(self, sets: int | None = None) -> Iterator[Problem]:
        """Every call of the launcher, on ``sets`` sets of random inputs; by default as many as the L2 asks for."""
        from bench.audit.launches import calls

        for dtype, sizes in itertools.product(self.dtypes, self.shapes):
            for call in calls(dtype, sizes["d"], sizes["G"], sizes["N"], sizes["L"]):
                if call.launcher == self.launcher:
                    function = getattr(call.module, self.launcher)
                    size = sum(t.nbytes for t in tree_leaves(call.arguments) if isinstance(t, Tensor))
                    drawn = [_drawn(call.arguments, self.device) for _ in range(sets or input_sets(size, self.device))]
                    yield Problem(dtype, [lambda f=function, a=arguments: f(*a) for arguments in drawn])


@dataclass(frozen=True)
class Problem:
    """One call of a launcher: the same work on several sets of inputs."""

    dtype: torch.dtype
    calls: Sequence[Callable[[], object]]

    def result(self) -> list[Tensor]:
        found = self.calls[0]()
        return [found] if isinstance(found, Tensor) else list(found)


@dataclass
class Outcome:
    """The best parameters (none: the default stays), their speed as a multiple of the default's, and what was tried."""

    tile: Tile = field(default_factory=dict)
    speedup: float = 1.0
    noise: float = LEAST_NOISE
    tried: int = 1
    refused: dict[str, str] = field(default_factory=dict)


class Compiler:
    """Tries candidates in processes of their own, so that Triton's cache has them when they are timed."""

    def __init__(self, workers: int | None = None):
        self.workers = workers or max(1, min(8, (os.cpu_count() or 2) // 2))
        self._pool = self._start()

    def refusals(self, subject: Subject, candidates: list[Tile]) -> list[str | None]:
        """Why each candidate cannot be had, or None."""
        reasons: list[str | None] = [KILLED] * len(candidates)
        try:
            futures = [self._pool.submit(refusal, subject, candidate) for candidate in candidates]
            for i, future in enumerate(futures):
                reasons[i] = future.result()
        except BrokenProcessPool:  # which of those without an answer did it is not known: all are refused
            self.close()
            self._pool = self._start()
        return reasons

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))


def refusal(
    subject: Subject, tile: Tile, problems: list[Problem] | None = None, expected: list[list[Tensor]] | None = None
) -> str | None:
    """Why a launcher does not run with a tile, or how far its results are from what is expected; None if both fit."""
    from fastmux.kernels.common import launch_table

    try:
        problems = problems or list(subject.problems(sets=1))
        with launch_table.using({subject.launcher: tile}):
            results = [problem.result() for problem in problems]
        synchronize(results[0][0].device)
    except Exception as error:  # TritonError, RuntimeError: a compiler that gives up raises what it likes
        return f"{type(error).__name__}: {error}".splitlines()[0]
    for problem, ours, theirs in zip(problems, results, expected or results, strict=True):
        # Two roundings apart at most: each within the tolerance of the exact result.
        error = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
        if not error <= 2 * TOLERANCE[problem.dtype]:
            return f"relative error {error:.1e} in {problem.dtype}"
    return None


def launchers() -> dict[str, str]:
    """Launcher -> the op whose benchmark has its shapes."""
    from bench.audit.launches import calls

    named = {c.launcher: c.module.__name__.rpartition(".")[2] for c in calls(torch.float32, 64, 1, 1, 1)}
    return {launcher: basename.removesuffix("_head") for launcher, basename in named.items()}


def shapes(op: str) -> list[Sizes]:
    """The benchmark's shapes, without those that only show what a launch costs."""
    return [sizes for sizes in listed.OPS[op].gpu if sizes["G"] > 1]


def search(subject: Subject, seconds: Timer, compiler: Compiler | None = None, budget: float = math.inf) -> Outcome:
    """Climbs from the launcher's default by halving and doubling one parameter at a time.

    Args:
        seconds: Times calls; `do_bench` on a GPU.
        compiler: Tries candidates before this process does.
        budget: Seconds after which no candidate is tried.
    """
    from fastmux.kernels.common import launch_table

    end, launcher, problems = time.perf_counter() + budget, subject.launcher, list(subject.problems())
    default = dict(launch_table.DEFAULTS[launcher])

    def timed(tile: Tile) -> np.ndarray:
        with launch_table.using({launcher: tile}):
            return np.array([seconds(problem.calls) for problem in problems])

    with launch_table.using({launcher: default}):
        expected = [problem.result() for problem in problems]
    first, again = timed(default), timed(default)
    own_noise = np.maximum(LEAST_NOISE, abs(1 - again / first))
    found = Outcome(noise=max(LEAST_NOISE, abs(1 - geometric_mean(again / first))))

    def better(times: np.ndarray, than: np.ndarray) -> bool:
        return geometric_mean(times / than) < 1 - found.noise and bool((times / than < 1 + own_noise).all())

    best, best_times = default, np.minimum(first, again)
    seen, climbing = [default], True
    while climbing and time.perf_counter() < end:
        climbing = False
        candidates = [tile for tile in neighbours(best) if tile not in seen]
        refusals = compiler.refusals(subject, candidates) if compiler else [None] * len(candidates)
        for tile, known in zip(candidates, refusals, strict=True):
            if time.perf_counter() > end:
                break
            seen.append(tile)
            if reason := known or refusal(subject, tile, problems, expected):
                found.refused[describe(tile)] = reason
                continue
            times = timed(tile)
            if better(times, best_times):
                best, best_times, climbing = tile, times, True
                break
    found.tried = len(seen)
    if best is not default:
        # The winner of many draws is also a lucky one, so both are timed once more, side by side.
        baseline, best_times = timed(default), timed(best)
        if better(best_times, baseline):
            found.tile, found.speedup = best, 1 / geometric_mean(best_times / baseline)
    return found


def neighbours(tile: Tile) -> Iterator[Tile]:
    """Every allowed tile with one parameter half or twice as large."""
    from fastmux.kernels.common.launch_table import is_allowed

    for parameter, value in tile.items():
        for other in (value // 2, 2 * value):
            if is_allowed(parameter, other):
                yield {**tile, parameter: other}


def describe(tile: Tile) -> str:
    return " ".join(f"{parameter}={value}" for parameter, value in tile.items())


def _drawn(arguments: tuple, device: torch.device) -> tuple:
    """Arguments on the device, floating ones at random. A tensor that stands twice among them stays one."""
    tensors = {id(t): t.to(device) for t in tree_leaves(arguments) if isinstance(t, Tensor)}
    moved = {key: torch.randn_like(t) if t.is_floating_point() else t for key, t in tensors.items()}
    return tree_map(lambda value: moved.get(id(value), value), arguments)


def tune(
    subjects: Sequence[Subject],
    seconds: Timer,
    compiler: Compiler | None = None,
    budget: float = math.inf,
    keep: Callable[[str, Outcome], object] = lambda launcher, outcome: None,
) -> dict[str, Outcome]:
    """Launcher -> outcome.

    Args:
        compiler: See `search`.
        budget: seconds, of which every launcher has its share of what is left.
        keep: Is told of each outcome as it is found.
    """
    outcomes, end = {}, time.perf_counter() + budget
    for i, subject in enumerate(subjects):
        launcher, share = subject.launcher, (end - time.perf_counter()) / (len(subjects) - i)
        if share <= 0:
            print(f"{launcher}: out of time", flush=True)
            continue
        found = outcomes[launcher] = search(subject, seconds, compiler, share)
        keep(launcher, found)
        verdict = f"{describe(found.tile)}: {found.speedup:.3f} x as fast" if found.tile else "the default stays"
        print(f"{launcher}: {verdict} (noise {found.noise:.1%}, {found.tried} tried)", flush=True)
    return outcomes


def write_table(path: Path, one: tuple[str, Outcome], device: torch.device, command: str) -> None:
    """Replaces the entry of the launcher that was tuned, and keeps the others of a table that is there."""
    from fastmux.kernels.common.launch_table import merged

    former = read_json(path) if path.exists() else {"launchers": {}, "found": {}}
    launcher, outcome = one
    entries = {name: tile for name, tile in former["launchers"].items() if name != launcher}
    entries |= {launcher: outcome.tile} if outcome.tile else {}
    merged(entries, str(path))
    own = asdict(outcome) | {"command": command, "machine": machine_info(device)}
    write_json(path, {"launchers": entries, "found": former["found"] | {launcher: own}})


def section(result: dict) -> Iterator[str]:
    """The page's section on a table of launch parameters."""
    yield "Launch parameters, compared with the defaults: `python -m bench.tune`."
    tiles = {launcher: describe(result["launchers"].get(launcher, {})) for launcher in result["found"]}
    rows = [row | {"launcher": name, "tile": tiles[name] or "the default"} for name, row in result["found"].items()]
    columns = {"launcher": "`{launcher}`", "parameters": "{tile}", "x default": "{speedup:.3f}"}
    yield table(rows, columns | {"noise": "{noise:.1%}", "tried": "{tried}"})


def worst(path: Path) -> list[str]:
    """The two ops of `OPS` that ``ratios.json`` has as slowest beside the compiled reference."""
    listed = [row["op"] for row in read_json(path)["to_compiled"]]  # slowest first
    return [op for op in dict.fromkeys(listed) if op in OPS][:2]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    output = "The JSON file to write. Default: kernels/tuned/<architecture>.json."
    parser = options_of(__doc__, output, prog="python -m bench.tune")
    add = parser.add_argument
    add("--ops", nargs="+", choices=OPS, default=OPS, help="The ops whose launchers are tuned.")
    add("--worst", type=Path, metavar="FILE", help="Tune the two slowest ops of this ratios.json, and not --ops.")
    add("--dtypes", nargs="+", choices=DTYPES, default=["bf16"], help="The dtypes of the tensors.")
    add("--shapes", type=int, default=2, help="The number of shapes of each op's benchmark.")
    add("--budget", type=float, default=math.inf, help="The seconds for all launchers.")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    device = default_device()
    if device.type != "cuda":
        print("bench.tune: torch sees no GPU; parameters are tuned on the GPU that they are for", file=sys.stderr)
        return 2
    from fastmux.kernels.common import launch_table

    device = torch.device("cuda", torch.cuda.current_device())
    path = args.output or launch_table.FOLDER / f"{launch_table.architecture(device)}.json"
    command = " ".join(["python -m bench.tune", *(sys.argv[1:] if argv is None else argv)])
    ops, dtypes = worst(args.worst) if args.worst else args.ops, [DTYPES[name] for name in args.dtypes]
    named = [(launcher, op) for launcher, op in launchers().items() if op in ops]
    subjects = [Subject(launcher, shapes(op)[: args.shapes], dtypes, device) for launcher, op in named]
    with contextlib.closing(Compiler()) as compiler:
        outcomes = tune(
            subjects,
            partial(do_bench, warmup=10, rep=50),
            compiler,
            args.budget,
            lambda *one: write_table(path, one, device, command),
        )
    print(f"{sum(bool(o.tile) for o in outcomes.values())} of {len(outcomes)} launchers tuned: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
