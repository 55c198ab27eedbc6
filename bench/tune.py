"""Find better launch parameters for the GPU that is here, and write them where the launchers look for them.

    python -m bench.tune                                   # every launcher, in bfloat16 at two shapes
    python -m bench.tune --ops hadamard_mux --shapes 6 --dtypes bf16 fp32
    python -m bench.tune --budget 420                      # seconds, shared among the launchers
    python -m bench.tune --output /tmp/sm_90.json          # for a look first; the launchers do not read it there

The defaults of ``kernels/common/launch_table.py`` were chosen by compiling, not by timing. For each launcher this
starts from the default and halves or doubles one parameter at a time, as long as that helps. Timed are the launcher's
calls of ``bench/audit/launches.py`` (every variant of its arguments) at the shapes of the op's benchmark that have more
than one group: medians of `triton.testing.do_bench`, over inputs that rotate through more than the L2 holds.

A candidate must first give what the default gives. It is kept only if it is faster than the best so far by more than
noise: in the geometric mean over all calls, and slower by more than noise in none of them. Noise is how far two timings
of the default lie apart, in the mean and in each call, but 2 % at least. At the end what was found must beat the
default by the same rule, both timed once more.

Candidates are compiled and run once side by side, in processes of their own, before the first of them is timed: one
that does not compile, or kills its process, is refused. Out of time a launcher keeps the best that it has found.

The table is written after each launcher. It goes to ``kernels/tuned/<architecture>.json``, with device, versions and
command beside it. Launchers that were not asked for keep their entries there. Processes that run already keep the
parameters they started with.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bench.candidates import Compiler
from bench.harness import Sizes
from bench.machine import default_device, machine_info
from bench.problems import Problem, problems
from fastmux.files import read_json, write_json
from fastmux.testing import TOLERANCE, relative_error

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
OPS = ("hadamard_mux", "walsh_hadamard_mux", "embedding_mux", "pair_norm")
#: Less than this is noise, however well two timings agree.
LEAST_NOISE = 0.02

#: Calls that do the same work on inputs that rotate -> seconds of one.
Timer = Callable[[Sequence[Callable[[], object]]], float]


@dataclass(frozen=True)
class Outcome:
    """What a search ended with: parameters, how many times faster than the default, the noise, and what was refused."""

    tile: dict[str, int]
    speedup: float
    noise: float
    tried: int
    refused: dict[str, str]


def launchers() -> dict[str, str]:
    """Launcher -> the op whose benchmark has its shapes."""
    from bench.audit.launches import calls

    named = {c.launcher: c.module.__name__.rpartition(".")[2] for c in calls(torch.float32, 64, 1, 1, 1)}
    return {launcher: basename.removesuffix("_head") for launcher, basename in named.items()}


def shapes(op: str) -> list[Sizes]:
    """The benchmark's shapes, without those that only show what a launch costs."""
    listed = importlib.import_module(f"bench.ops.test_{op}").OP.gpu
    return [sizes for sizes in listed if sizes["G"] > 1]


def search(
    launcher: str,
    listed: Sequence[Problem],
    seconds: Timer,
    report: Callable[[str], object],
    refusals: Callable[[list[dict[str, int]]], list[str | None]],
    budget: float = math.inf,
) -> Outcome:
    """Climbs from the default of ``launcher`` by halving and doubling one parameter at a time.

    Args:
        seconds: times calls; `do_bench` on a GPU.
        report: told what is tried.
        refusals: says of each candidate why it cannot be had, or None; given those that are to be tried next.
        budget: seconds after which no candidate is tried.
    """
    from fastmux.kernels.common import launch_table

    end = time.perf_counter() + budget
    default = dict(launch_table.DEFAULTS[launcher])

    def timed(tile: dict[str, int]) -> list[float]:
        with launch_table.using({launcher: tile}):
            return [seconds(problem.calls) for problem in listed]

    with launch_table.using({launcher: default}):
        expected = [_flat(problem.calls[0]()) for problem in listed]
    report("default")
    first, again = timed(default), timed(default)
    apart = [a / b for a, b in zip(again, first, strict=True)]
    noise = max(LEAST_NOISE, abs(1 - mean(apart)))
    own_noise = [max(LEAST_NOISE, abs(1 - ratio)) for ratio in apart]

    def better(times: list[float], than: list[float]) -> bool:
        ratios = [ours / theirs for ours, theirs in zip(times, than, strict=True)]
        return mean(ratios) < 1 - noise and all(r < 1 + n for r, n in zip(ratios, own_noise, strict=True))

    best, best_times = default, [min(a, b) for a, b in zip(first, again, strict=True)]
    seen, refused = [default], {}
    climbing = True
    while climbing and time.perf_counter() < end:
        climbing = False
        candidates = [tile for tile in neighbours(best) if tile not in seen]
        report(f"compiling {len(candidates)}")
        for tile, reason in zip(candidates, refusals(candidates), strict=True):
            if time.perf_counter() > end:
                break
            seen.append(tile)
            name = describe(tile)
            report(name)
            reason = reason or _refusal(launcher, tile, listed, expected)
            if reason:
                refused[name] = reason
                continue
            times = timed(tile)
            if better(times, best_times):
                best, best_times, climbing = tile, times, True
                break
    if best is default:
        return Outcome({}, 1.0, noise, len(seen), refused)
    # The winner of many draws is also a lucky one: both once more, side by side.
    report(f"default against {describe(best)}")
    baseline, best_times = timed(default), timed(best)
    if not better(best_times, baseline):
        return Outcome({}, 1.0, noise, len(seen), refused)
    speedup = 1 / mean([ours / theirs for ours, theirs in zip(best_times, baseline, strict=True)])
    return Outcome(best, speedup, noise, len(seen), refused)


def neighbours(tile: dict[str, int]) -> Iterator[dict[str, int]]:
    """Every tile with one parameter half or twice as large, as far as it may be."""
    from fastmux.kernels.common.launch_table import is_allowed

    for parameter, value in tile.items():
        for other in (value // 2, 2 * value):
            if is_allowed(parameter, other):
                yield {**tile, parameter: other}


def describe(tile: dict[str, int]) -> str:
    return " ".join(f"{parameter}={value}" for parameter, value in tile.items())


def mean(ratios: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _refusal(launcher: str, tile: dict, listed: Sequence[Problem], expected: list[list[Tensor]]) -> str | None:
    """Why a candidate cannot be had: it does not compile or launch, or its results are not the default's."""
    from fastmux.kernels.common import launch_table

    for problem, default in zip(listed, expected, strict=True):
        try:
            with launch_table.using({launcher: tile}):
                ours = _flat(problem.calls[0]())
        except Exception as error:  # TritonError, RuntimeError: a compiler that gives up raises what it likes
            return f"{type(error).__name__}: {error}".splitlines()[0]
        # Two roundings apart at most: each within the tolerance of the exact result.
        error = max(relative_error(a, b) for a, b in zip(ours, default, strict=True))
        if not error <= 2 * TOLERANCE[problem.dtype]:
            return f"relative error {error:.1e} in {problem.dtype}"
    return None


def _flat(result: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def do_bench(calls: Sequence[Callable[[], object]]) -> float:
    """Median seconds of a call, the inputs rotating, by `triton.testing.do_bench`."""
    from triton.testing import do_bench

    turns = itertools.cycle(calls)
    return 1e-3 * do_bench(lambda: next(turns)(), warmup=10, rep=50, return_mode="median")


def tune(
    asked: Sequence[str],
    listed: Callable[[str], list[Sizes]],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
    seconds: Timer,
    progress: bool = True,
    compiler: Compiler | None = None,
    budget: float = math.inf,
    keep: Callable[[str, Outcome], object] = lambda launcher, outcome: None,
) -> dict[str, Outcome]:
    """Launcher -> outcome, for the launchers of the ops ``asked`` for, at the shapes ``listed`` for each.

    Args:
        compiler: tries candidates out before this process does; None: it does so alone.
        budget: seconds, of which every launcher has its share of what is left.
        keep: told of each outcome as it is found.
    """
    wanted = [(launcher, op) for launcher, op in launchers().items() if op in asked]
    outcomes, end = {}, time.perf_counter() + budget
    with tqdm(wanted, disable=not progress, unit="launcher") as bar:
        for i, (launcher, op) in enumerate(bar):
            share = (end - time.perf_counter()) / (len(wanted) - i)
            if share <= 0:
                bar.write(f"{launcher}: out of time", file=sys.stdout)
                continue
            own = list(problems(launcher, listed(op), dtypes, device))
            subject = (launcher, listed(op), list(dtypes))
            refusals = functools.partial(compiler.refusals, subject) if compiler else _none_refused
            report = functools.partial(_show, bar, launcher)
            found = outcomes[launcher] = search(launcher, own, seconds, report, refusals, share)
            keep(launcher, found)
            verdict = f"{describe(found.tile)}: {found.speedup:.3f} x as fast" if found.tile else "the default stays"
            bar.write(f"{launcher}: {verdict} (noise {found.noise:.1%}, {found.tried} tried)", file=sys.stdout)
    return outcomes


def _none_refused(candidates: list[dict[str, int]]) -> list[str | None]:
    return [None] * len(candidates)


def _show(bar: tqdm, launcher: str, what: str) -> None:
    bar.set_postfix_str(f"{launcher} {what}")


def write_table(path: Path, outcomes: dict[str, Outcome], device: torch.device, command: str) -> None:
    """Replaces the entries of the launchers that were tuned, and keeps the others of a table that is there."""
    from fastmux.kernels.common.launch_table import merged

    former = read_json(path) if path.exists() else {"launchers": {}, "found": {}}
    entries = {k: v for k, v in former["launchers"].items() if k not in outcomes}
    entries |= {launcher: outcome.tile for launcher, outcome in outcomes.items() if outcome.tile}
    merged(entries, str(path))
    found = former["found"] | {
        launcher: {
            "speedup": outcome.speedup,
            "noise": outcome.noise,
            "tried": outcome.tried,
            "refused": outcome.refused,
            "command": command,
            "machine": machine_info(device),
        }
        for launcher, outcome in outcomes.items()
    }
    write_json(path, {"launchers": entries, "found": found})


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16"], help="default: bf16")
    parser.add_argument("--shapes", type=int, default=2, help="of each op's benchmark, the first so many (default: 2)")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all launchers (default: no limit)")
    parser.add_argument("--output", type=Path, help="JSON file; default: kernels/tuned/<architecture>.json")
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
    compiler = Compiler(device)
    try:
        outcomes = tune(
            args.ops,
            lambda op: shapes(op)[: args.shapes],
            [DTYPES[name] for name in args.dtypes],
            device,
            do_bench,
            compiler=compiler,
            budget=args.budget,
            keep=lambda launcher, outcome: write_table(path, {launcher: outcome}, device, command),
        )
    finally:
        compiler.close()
    print(f"{sum(bool(o.tile) for o in outcomes.values())} of {len(outcomes)} launchers tuned: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
