"""What curves say: the figures of each point, a law for each student, and how far a T-MUX is behind a plain student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fastmux.training.fronts.law import DRAWS, LEAST_POINTS, Estimate, Laws, draw_weights, fit
from fastmux.training.fronts.verdict import AS_FAST
from fastmux.training.metrics import Measure
from fastmux.training.run_result import Score


@dataclass(frozen=True)
class Stored:
    """A point of one seed, as its files have it.

    Attributes:
        row_updates: The rows of all steps.
        steps: The optimizer's steps.
        seconds: The processor time of training, as if there had been no other point.
        scores, agreements: In each grouping; see `fastmux.training.fronts.curve_models.Scored`.
        same, counts: Of each row; see there.
    """

    row_updates: int
    steps: int
    seconds: float
    scores: list[float]
    agreements: list[float]
    same: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve: what a student is worth that stops there.

    Attributes:
        row_updates: The rows of all its steps.
        steps: The optimizer's steps.
        epochs: How often it has seen all rows.
        passes: The sequences that the encoder was run on, by row-updates over N.
        seconds: The processor time of its training, the mean over seeds.
        flops: The floating-point operations of its training, in matrix products.
        seeds: Those that reached it.
        agreement: The share of rows with the original's label, over groupings; of several seeds, each one's mean.
        score: The task's metric, in the same way.
    """

    row_updates: int
    steps: int
    epochs: float
    passes: float
    seconds: float
    flops: float
    seeds: list[int]
    agreement: Score
    score: Score


@dataclass(frozen=True)
class Law:
    """What a student gets wrong after n row-updates: ``floor + scale * n ** -power``.

    Attributes:
        floor, power: With intervals, for other rows, seeds and points.
        scale: Without one.
        more: Ten times the row-updates of the last point.
        then: What it would still get wrong there.
    """

    floor: Estimate
    power: Estimate
    scale: float
    more: float
    then: Estimate


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A student's curve.

    Attributes:
        name, multiplexed, num_instances, parameters: Of the student.
        bf16: It was trained under bfloat16 autocast.
        rows_per_second, speed_up, speed_up_forward: See `fastmux.training.fronts.measure.Measured`.
        points: The points, by row-updates.
        begins: The row-updates of the point from which on it agrees in more rows than one answer to all would; None if
            the last point does not.
        agreement, score: The laws of what disagrees with the original, and of 1 less the score, from there on; None of
            few points.
    """

    name: str
    multiplexed: bool
    num_instances: int
    parameters: int
    bf16: bool
    rows_per_second: float
    speed_up: float
    speed_up_forward: float
    points: list[CurvePoint]
    begins: int | None
    agreement: Law | None
    score: Law | None


@dataclass(frozen=True)
class Gap:
    """How far a T-MUX is behind the best plain student of at least its speed, in the share of rows with the original's
    label; below 0 where it is ahead.

    Attributes:
        name, rival: The two.
        as_fast: The rival has the T-MUX's speed, or more; otherwise it is the fastest plain student that there is.
        row_updates, behind: At the last point of both.
        tenth, was: At about a tenth of that; None where no point is near.
        equal_passes: Beside the rival after as many passes of the encoder, a row in each, between whose points lines in
            the logarithm of row-updates are drawn; None if its first point is later.
        then: What the laws say for ten times more; None of few points.
        floors: The difference of the floors; None of few points.
    """

    name: str
    rival: str
    as_fast: bool
    row_updates: int
    behind: Estimate
    tenth: int | None = None
    was: Estimate | None = None
    equal_passes: Estimate | None = None
    then: Estimate | None = None
    floors: Estimate | None = None

    @property
    def closes(self) -> bool | None:
        """Whether ten times more training closes the gap; None if the points do not tell."""
        if self.then is None or self.floors is None:
            return None
        if self.then.high <= 0:
            return True
        return False if self.then.low > 0 and self.floors.low > 0 else None


class Figures:
    """Computes all that curves say, with intervals from one set of draws, so that differences are paired.

    Args:
        stored: By student and seed, the points by row-updates.
        measure: The task's metric, which gives the score ``metric``.
        constant: The share of rows in which one answer to all agrees with the original.
        draws: Of rows, seeds and points.
    """

    def __init__(
        self,
        stored: Mapping[str, Mapping[int, Mapping[int, Stored]]],
        measure: Measure,
        metric: str,
        constant: float = 0.0,
        draws: int = DRAWS,
    ):
        self._stored, self._measure, self._metric, self._draws = stored, measure, metric, draws
        self._constant = constant
        points = [p for seeds in stored.values() for own in seeds.values() for p in own.values()]
        self._rows = len(points[0].same)
        self._row_weights = draw_weights(self._rows, draws, seed=1)
        self._seeds = sorted({seed for seeds in stored.values() for seed in seeds})
        self._seed_weights = draw_weights(len(self._seeds), draws, seed=2)
        self.wrong = cache(self._wrong)

    def reached(self, name: str) -> list[int]:
        """The row-updates of a student's points."""
        return sorted({n for own in self._stored[name].values() for n in own})

    def _wrong(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The share of rows with another label than the original's, and 1 less the score: (draws + 1, points) each."""
        found = []
        for n in self.reached(name):
            own = {seed: points[n] for seed, points in self._stored[name].items() if n in points}
            each = np.stack([self._of_draws(point) for point in own.values()], 1)  # (2, seeds, draws + 1)
            weights = self._seed_weights[:, [self._seeds.index(seed) for seed in own]].T
            weights = np.where(weights.sum(0) > 0, weights, 1.0)
            found.append((each * weights).sum(1) / weights.sum(0))
        differs, error = np.stack(found, -1)
        return differs, error

    def _of_draws(self, point: Stored) -> np.ndarray:
        same = self._row_weights @ point.same.astype(np.float32) / self._rows
        score = self._measure.score(self._row_weights.astype(np.float64) @ point.counts)[self._metric]
        return 1 - np.stack([same, score])

    def _begun(self, name: str) -> np.ndarray:
        """Which points are no longer those of one answer to all rows, by two standard errors: (points), bool."""
        chance = 2 * np.sqrt(self._constant * (1 - self._constant) / self._rows)
        better = self.wrong(name)[0][0] < 1 - self._constant - chance
        return np.logical_and.accumulate(better[::-1])[::-1]

    def begins(self, name: str) -> int | None:
        """See `Curve`."""
        begun = self._begun(name)
        return self.reached(name)[int(begun.argmax())] if begun.any() else None

    def laws(self, name: str, which: int = 0) -> Laws | None:
        """A student's law in every draw, from where it begins to learn: of `wrong`'s first, or second."""
        begun = self._begun(name)
        n, wrong = np.array(self.reached(name), float)[begun], self.wrong(name)[which][:, begun]
        if len(n) < LEAST_POINTS:
            return None
        likely = np.clip(wrong[0] * (1 - wrong[0]), 1 / self._rows, None)  # a share's variance, but for the rows
        return fit(n, wrong, draw_weights(len(n), self._draws, seed=3, distinct=LEAST_POINTS) / likely)

    def law(self, name: str, which: int) -> Law | None:
        laws, more = self.laws(name, which), 10.0 * self.reached(name)[-1]
        if laws is None:
            return None
        then = Estimate.of(laws.at(more))
        return Law(Estimate.of(laws.floor), Estimate.of(laws.power), float(laws.scale[0]), more, then)

    def points(self, name: str, instances: int, flops_a_row: float, rows: int) -> list[CurvePoint]:
        """A student's points; ``rows`` are those of an epoch."""
        found = []
        for n in self.reached(name):
            own = {seed: points[n] for seed, points in sorted(self._stored[name].items()) if n in points}
            agreements, scores = [p.agreements for p in own.values()], [p.scores for p in own.values()]
            found.append(
                CurvePoint(
                    row_updates=n,
                    steps=next(iter(own.values())).steps,
                    epochs=n / rows,
                    passes=n / instances,
                    seconds=float(np.mean([p.seconds for p in own.values()])),
                    flops=n * flops_a_row,
                    seeds=list(own),
                    agreement=_over(agreements),
                    score=_over(scores),
                )
            )
        return found

    def gap(self, curve: Curve, plain: Sequence[Curve]) -> Gap | None:
        """How far a T-MUX is behind; None if it has no point in common with a plain student."""
        own = self.reached(curve.name)
        plain = [rival for rival in plain if set(self.reached(rival.name)) & set(own)]
        if not plain:
            return None
        fast = [rival for rival in plain if rival.rows_per_second >= AS_FAST * curve.rows_per_second]
        at = max(set(own) & {n for rival in fast or plain for n in self.reached(rival.name)})
        if fast:
            reached = [rival for rival in fast if at in self.reached(rival.name)]
            best = min(reached, key=lambda rival: self._at(rival.name, at)[0])
        else:
            best = max(plain, key=lambda rival: rival.rows_per_second)
            at = max(set(own) & set(self.reached(best.name)))
        before = [n for n in set(own) & set(self.reached(best.name)) if n <= at / 5]
        tenth = min(before, key=lambda n: abs(np.log(n / (at / 10))), default=None)
        behind = {n: Estimate.of(self._at(curve.name, n) - self._at(best.name, n)) for n in (at, tenth) if n}
        ours, theirs = self.laws(curve.name), self.laws(best.name)
        then = floors = None
        if ours is not None and theirs is not None:
            then = Estimate.of(ours.at(10.0 * at) - theirs.at(10.0 * at))
            floors = Estimate.of(ours.floor - theirs.floor)
        equal = self._between(best.name, at / curve.num_instances)
        passes = None if equal is None else Estimate.of(self._at(curve.name, at) - equal)
        return Gap(curve.name, best.name, bool(fast), at, behind[at], tenth, behind.get(tenth), passes, then, floors)

    def _at(self, name: str, n: int) -> np.ndarray:
        return self.wrong(name)[0][:, self.reached(name).index(n)]

    def _between(self, name: str, n: float) -> np.ndarray | None:
        """`_at` for n that need be no point."""
        reached = self.reached(name)
        if n in reached:
            return self._at(name, int(n))
        if not reached[0] < n < reached[-1]:
            return None
        right = int(np.searchsorted(reached, n))
        first, last = reached[right - 1], reached[right]
        share = np.log(n / first) / np.log(last / first)
        return (1 - share) * self._at(name, first) + share * self._at(name, last)


def _over(values: list[list[float]]) -> Score:
    return Score.of(values[0] if len(values) == 1 else [float(np.mean(own)) for own in values])
