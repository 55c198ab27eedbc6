"""What the user needs, a speed or an agreement: which candidates are worth going on with, and which is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastmux.passes.cascade import choose_min_confidence
from fastmux.searching.kinds import ROWS, Kind
from fastmux.searching.points import Point
from fastmux.searching.settings import SearchSettings

#: A model with the original behind it has to be so much faster than one alone to be chosen in its place: it needs both
#: models.
_BOTH = 1.1


@dataclass(frozen=True)
class Need:
    """What is asked for: one of both.

    Attributes:
        speedup: The speed, in that of the original.
        agreement: The share of rows with the original's label, or of the same neighbours.
        kind: What models agree in.
    """

    speedup: float | None
    agreement: float | None
    kind: Kind = ROWS

    @classmethod
    def of(cls, settings: SearchSettings, kind: Kind = ROWS) -> Need:
        """The need that settings state."""
        if settings.speedup is not None:
            return cls(settings.speedup, None, kind)
        return cls(None, kind.usual if settings.agreement is None else settings.agreement, kind)

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"{self.speedup:g} x the speed"
        return f"{percent(self.agreement)} {self.kind.same}"

    def fast_enough(self, speeds: dict[str, float], untrained: float) -> list[str]:
        """The candidates that are worth training, by the speeds that they are expected to have.

        Args:
            speeds: By name.
            untrained: The speed of the fastest form of the original, which needs no training.
        """
        least = 0.9 * self.speedup if self.speedup is not None else 1.05 * untrained
        enough = [name for name, speed in speeds.items() if speed >= least]
        return enough or sorted(speeds, key=speeds.__getitem__)[-3:]

    def worth(
        self,
        speed: float,
        agreement: float,
        sure: np.ndarray | None,
        same: np.ndarray | None,
        second_speed: float = 1.0,
    ) -> float:
        """How good a candidate that is still learning is; more is better.

        For an agreement it is the speed that the candidate would have with the original behind it, such that both
        reach the agreement. That weighs speed and likeness without a constant of ours, and it is what a candidate is
        good for even if it never reaches the agreement alone.

        Args:
            speed: The speed, in that of the original.
            agreement: The share of the choosing rows with the original's label, or of the same neighbours.
            sure, same: For each choosing row the candidate's confidence, and whether it has the original's labels; None
                of a model that labels words or embeds.
            second_speed: The speed of the fastest form of the original, which may stand behind the candidate.
        """
        if self.agreement is None:
            return agreement
        if sure is None or same is None:  # a vector has no doubt; of a row, all words would have to agree
            return speed * min(1.0, (1 - self.agreement) / max(1 - agreement, 1e-9)) ** 2
        try:
            gone_on = choose_min_confidence(sure, same, self.agreement).fallback
        except ValueError:
            gone_on = 1.0
        return 1 / (1 / speed + gone_on / second_speed)

    def met_by(self, point: Point) -> bool:
        """Whether a model does what is asked for, by its speed or by the rows that choose; of an agreement, with a
        chance of nine in ten that it holds on other rows, too."""
        if self.speedup is not None:
            return point.speed_up >= self.speedup
        return point.choosing.mean == 1.0 or point.choosing.surely() >= self.agreement

    def choose(self, points: Sequence[Point]) -> tuple[Point, bool]:
        """The best point, and whether it meets the need."""
        alone = self._best([p for p in points if not p.cascade])
        both = self._best([p for p in points if p.cascade])
        if both is None:
            return alone
        (one, one_meets), (two, two_meets) = alone, both
        if one_meets != two_meets:
            return both if two_meets else alone
        if self.speedup is not None and one_meets:
            return both if two.choosing.surely() > one.choosing.mean else alone
        return both if one_meets and two.speed_up > _BOTH * one.speed_up else alone

    def _best(self, points: Sequence[Point]) -> tuple[Point, bool] | None:
        if not points:
            return None
        meeting = [p for p in points if self.met_by(p)]
        if self.speedup is not None:
            if meeting:
                return max(meeting, key=lambda p: (p.choosing.mean, p.speed_up)), True
            return max(points, key=lambda p: p.speed_up), False
        if meeting:
            return max(meeting, key=lambda p: p.speed_up), True
        return max(points, key=lambda p: p.choosing.mean), False


def percent(share: float) -> str:
    """A share in words: 98 %, 99.5 %."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"
