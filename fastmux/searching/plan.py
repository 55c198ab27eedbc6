"""How many candidates race, over how many rungs of how many steps, so that it takes the time that there is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from fastmux.distillation.attention import bfloat16_steps
from fastmux.distillation.teacher import TeacherOutputs, logits_of
from fastmux.distillation.trainer import ROW, TeacherCollator

#: The fewest steps of the candidate that is trained longest, and of those that are left out after the first round where
#: there are several: with fewer, none has learnt anything.
LEAST_STEPS, LEAST_FIRST_STEPS = 40, 20
#: A step under bfloat16 must take less than this share of one in float32 to be worth its rounding.
QUICKER = 0.9
#: How many candidates the last rung has: one may not be as good in its last form as it looked.
FINALISTS = 2


@dataclass(frozen=True)
class Rung:
    """A round of the race.

    Attributes:
        candidates: How many candidates run in it.
        steps: How many steps each has made at its end, earlier rungs included.
    """

    candidates: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """A race by successive halving (Jamieson and Talwalkar, 2016, "Non-stochastic best arm identification and
    hyperparameter optimization"): all candidates get a few steps, the better half twice as many, and so on.

    Attributes:
        names: The candidates, the most promising first.
        rungs: The rounds.
        bf16: Whether they train under bfloat16 autocast.
        step_seconds: How long a step of each takes, by name.
        turn_seconds: How long a candidate takes in a round beside its steps, to be judged, about.
    """

    names: tuple[str, ...]
    rungs: tuple[Rung, ...]
    bf16: bool
    step_seconds: dict[str, float]
    turn_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """How many steps the candidate gets that is trained longest."""
        return self.rungs[-1].steps

    def seconds(self) -> float:
        """About how long the race takes. Which candidates go on is not known, so that it takes their mean."""
        mean = sum(self.step_seconds[name] for name in self.names) / len(self.names)
        before, total = 0, 0.0
        for rung in self.rungs:
            total += rung.candidates * ((rung.steps - before) * mean + self.turn_seconds)
            before = rung.steps
        return total

    def seconds_of(self, name: str, before: int, rungs: Sequence[Rung]) -> float:
        """About how long a candidate that made ``before`` steps takes for these rounds."""
        turns = [rung for rung in rungs if rung.steps > before]
        steps = turns[-1].steps - before if turns else 0
        return steps * self.step_seconds[name] + len(turns) * self.turn_seconds

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict) -> Plan:
        """What `as_dict` gave."""
        rungs = tuple(Rung(**rung) for rung in stored["rungs"])
        return cls(**{**stored, "names": tuple(stored["names"]), "rungs": rungs})


def make_plan(
    names: Sequence[str],
    step_seconds: Mapping[str, float],
    seconds: float,
    bf16: bool = False,
    max_steps: int | None = None,
    turn_seconds: float = 0.0,
) -> Plan:
    """The race that fits into so many seconds: with as many of the candidates as can have enough steps.

    Args:
        names: The candidates, the most promising first: the last are left out where time is short.
        max_steps: The steps of the last rung, whatever the time.
        turn_seconds: See `Plan`.

    Raises:
        ValueError: There is too little time for one candidate.

    Example:
        >>> from fastmux.searching.plan import make_plan
        >>> plan = make_plan(["a", "b", "c", "d"], dict.fromkeys("abcd", 0.5), seconds=400.0)
        >>> [(rung.candidates, rung.steps) for rung in plan.rungs]
        [(4, 133), (2, 266)]
    """
    for count in range(len(names), 0, -1):
        some = tuple(names[:count])
        times = {name: step_seconds[name] for name in some}
        if max_steps is not None:
            return Plan(some, _rungs(count, max_steps), bf16, times, turn_seconds)
        rungs = _rungs(count, 2**16)
        unit = Plan(some, rungs, bf16, times).seconds() / 2**16
        steps = int((seconds - turn_seconds * sum(rung.candidates for rung in rungs)) / unit)
        enough = LEAST_STEPS if count <= FINALISTS else max(LEAST_STEPS, LEAST_FIRST_STEPS << len(_rungs(count, 1)) - 1)
        if steps >= enough:
            return Plan(some, _rungs(count, steps), bf16, times, turn_seconds)
    least = min(step_seconds.values()) * LEAST_STEPS
    raise ValueError(
        f"minutes leaves {max(0.0, seconds):.0f} s for training, too few for one candidate, which needs "
        f"{least:.0f} s for {LEAST_STEPS} steps"
    )


def _rungs(count: int, steps: int) -> tuple[Rung, ...]:
    counts = [count]
    while counts[-1] > FINALISTS:
        counts.append(max(FINALISTS, counts[-1] // 2))
    return tuple(Rung(c, max(1, steps >> (len(counts) - 1 - k))) for k, c in enumerate(counts))


def step_seconds(
    model: PreTrainedModel, rows: Dataset, collate: TeacherCollator, teacher: TeacherOutputs, batch: int, bf16: bool
) -> float:
    """About how long a training step takes: forward, backward; the better of two, after one that warms up."""
    features = rows.select(range(min(batch, len(rows))))
    inputs = collate([{**row, ROW: k} for k, row in enumerate(features)])
    inputs = {name: t.to(model.device) for name, t in inputs.items() if not name.startswith("teacher")}
    embeddings: nn.Module = model.get_input_embeddings()
    for p in embeddings.parameters():
        p.requires_grad_(False)
    best = float("inf")
    model.train()
    for _ in range(3):
        start = time.perf_counter()
        with bfloat16_steps(model.device, bf16):
            logits = logits_of(model(**inputs))
        logits.float().square().mean().backward()
        model.zero_grad()
        best = min(best, time.perf_counter() - start)
    return best
