"""A student's training: one trunk at a constant rate, and at each point a branch that is scored and dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from fastmux.files import read_json, remove, replacing, write_json
from fastmux.training.fronts.curve_figures import Stored
from fastmux.training.fronts.curve_models import Scored
from fastmux.training.learner import Learner, steps_done

#: A branch is a tenth as long as the trunk is where it leaves.
_BRANCH = 11
_TRUNK = "trunk.pt"


@dataclass(frozen=True)
class Stop:
    """A point of a curve.

    Attributes:
        steps: The steps of a student that stops here.
        leave: After how many of them its rate begins to fall.
    """

    steps: int
    leave: int

    @classmethod
    def at(cls, row_updates: int, batch: int) -> Stop:
        """The point after about so many row-updates, of ``batch`` a step.

        Example:
            >>> from fastmux.training.fronts.growth import Stop
            >>> Stop.at(66_000, batch=60)
            Stop(steps=1100, leave=1000)
        """
        steps = max(1, round(row_updates / batch))
        return cls(steps, steps - max(1, round(steps / _BRANCH)))


def length_of(stops: Sequence[Stop], done: int = 0) -> int:
    """The steps of all trunks and branches up to the last of these stops, for a trunk that has some behind it."""
    return sum(stop.steps - stop.leave for stop in stops) + max((stop.leave - done for stop in stops), default=0)


@dataclass(frozen=True)
class Growth:
    """A student at one seed.

    Args:
        folder: Its folder: the trunk, the branch on its way, and two files for each point.
        make: Makes the learner before its first step.
        rate: The constant learning rate of the trunk.
        warm_up: Over how many steps it rises to that.
        batch: The rows of a step.
    """

    folder: Path
    make: Callable[[], Learner]
    rate: float
    warm_up: int
    batch: int

    @property
    def trunk(self) -> int:
        """How many steps the trunk has behind it."""
        return steps_done(self.folder / _TRUNK)

    def waiting(self, stops: Sequence[Stop]) -> list[Stop]:
        """Those that are not measured yet."""
        return [stop for stop in stops if not self._record(stop).is_file()]

    def measure(
        self, stop: Stop, score: Callable[[nn.Module], Scored], on_step: Callable[[], None], save_seconds: float
    ) -> None:
        """Train up to a point, and score there, unless that was done.

        Args:
            score: Scores a trained model.
            on_step: Called after each step.
            save_seconds: How often the state is written.
        """
        branch, trunk = self.folder / f"branch-{stop.steps}.pt", self.folder / _TRUNK
        if self.waiting([stop]):
            learner = self.make()
            if not learner.resume(branch):
                learner.resume(trunk)
                before = learner.step
                learner.run(stop.leave, self._trunk_rate, trunk, on_step, save_seconds)
                if learner.step > before:
                    learner.save(trunk)
            top, length = self._trunk_rate(stop.leave), stop.steps - stop.leave

            def falling(step: int) -> float:
                return top * (stop.steps - step) / (length + 1)

            learner.run(stop.steps, falling, branch, on_step, save_seconds)
            self._write(stop, learner.seconds, score(learner.model))
        remove(branch)

    def _trunk_rate(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / max(1, self.warm_up))

    def _record(self, stop: Stop) -> Path:
        return self.folder / "points" / f"{stop.steps}.json"

    def _write(self, stop: Stop, seconds: float, scored: Scored) -> None:
        own, rows = asdict(scored), {}
        for name in ("same", "counts"):
            rows[name] = own.pop(name)
        with replacing(self._record(stop).with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **rows)
        # The last to be written: with it the point is there.
        record = {"row_updates": stop.steps * self.batch, "steps": stop.steps, "seconds": seconds}
        write_json(self._record(stop), record | own)

    def points(self) -> dict[int, Stored]:
        """All points that are there, by row-updates."""
        found = {}
        for path in (self.folder / "points").glob("[0-9]*.json"):  # none that is being written
            with np.load(path.with_suffix(".npz")) as rows:
                point = Stored(**read_json(path), same=rows["same"], counts=rows["counts"])
            found[point.row_updates] = point
        return dict(sorted(found.items()))
