"""Train candidates in a race: after each rung the better half goes on, from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from fastmux.distillation.distil import distil, distillation_arguments, last_checkpoint, with_weights
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import TeacherOutputs
from fastmux.files import read_json, remove, write_json
from fastmux.searching.kinds import ROWS
from fastmux.searching.plan import Plan, Rung

_STATE, _WHOLE = "race.json", "whole.json"
#: How often a checkpoint is written: after this share of all steps, and at the end of a rung.
_SAVES = 0.1


@dataclass
class Standing:
    """How far a candidate is.

    Attributes:
        name: The candidate.
        history: After each of its rungs: the steps that it had made, its agreement on the choosing rows, and its worth,
            as from `fastmux.searching.need.Need.worth`.
    """

    name: str
    history: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return self.history[-1][0] if self.history else 0

    @property
    def agreement(self) -> float:
        return self.history[-1][1] if self.history else 0.0

    def worth(self, steps: int | None = None) -> float:
        """Its worth at the end of its last rung, or after at most so many steps."""
        found = [worth for made, _, worth in self.history if steps is None or made <= steps]
        return found[-1] if found else 0.0


@dataclass
class Race:
    """Trains candidates; whatever happens to the process, a race with the same folder goes on from its checkpoints.

    Args:
        plan: The rounds.
        make: Makes a candidate by its name, untrained.
        judge: The agreement and the worth of a trained candidate, by its name.
        rows: What they learn from, with the original's outputs for it in ``teacher``.
        settings: How they learn.
        folder: A folder for each candidate, and how far the race is.
        same: What the agreement is a share of, in words.
        deadline: When it should be over, by `time.monotonic`. Where the machine turns out to be slower than the plan
            took it to be, fewer candidates run, so that the best of them can make all its steps. None for no such time.
    """

    plan: Plan
    make: Callable[[str], PreTrainedModel]
    judge: Callable[[str, PreTrainedModel], tuple[float, float]]
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    teacher: TeacherOutputs
    settings: ConversionSettings
    folder: Path
    same: str = ROWS.same
    deadline: float | None = None
    standings: dict[str, Standing] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = read_json(self.folder / _STATE) if (self.folder / _STATE).is_file() else []
        known = {entry["name"]: Standing(**entry) for entry in stored}
        self.standings = {name: known.get(name, Standing(name)) for name in self.plan.names}
        self._planned = self._taken = 0.0

    def run(self, bar: tqdm) -> None:
        """Run all rungs that are left. ``bar`` gets about as many seconds as each step takes."""
        racing, before = list(self.plan.names), 0
        for number, rung in enumerate(self.plan.rungs):
            # By what was known then: a race that goes on after an interruption takes the same turns.
            racing = sorted(racing, key=lambda name: -self.standings[name].worth(before))[: rung.candidates]
            before = rung.steps
            for name in set(self.plan.names) - set(racing):  # of who is out, weights are enough
                for moments in (self.folder / name).glob("checkpoint-*/optimizer.pt"):
                    moments.unlink()
            ran = []
            for place, name in enumerate(racing):
                standing = self.standings[name]
                bar.set_description(
                    f"round {number + 1} of {len(self.plan.rungs)}, {name} ({place + 1} of {len(racing)})"
                )
                if standing.steps < rung.steps:
                    if place and not self._in_time(name, racing[0], number):
                        continue
                    self._train(standing, rung.steps, bar)
                ran.append(name)
                bar.set_postfix_str(self._best_so_far())
            racing = ran

    def ranked(self) -> list[Standing]:
        """The candidates that were judged, the best first: those that were trained longest, by their worth."""
        judged = [standing for standing in self.standings.values() if standing.steps]
        return sorted(judged, key=lambda standing: (standing.steps, standing.worth()), reverse=True)

    def load(self, name: str) -> PreTrainedModel:
        """A candidate as it was when it was judged last."""
        return self._read(name, self.standings[name].steps)

    def _in_time(self, name: str, best: str, number: int) -> bool:
        """Whether there is time for a candidate's turn in a round, and then for the best to make all its steps, at the
        pace that the race had so far."""
        if self.deadline is None:
            return True
        rungs, done = self.plan.rungs, self.standings[name].steps
        seconds = self.plan.seconds_of(name, done, rungs[number : number + 1])
        seconds += self.plan.seconds_of(best, rungs[number].steps, rungs[number + 1 :])
        pace = self._taken / self._planned if self._planned else 1.0
        return time.monotonic() + pace * seconds < self.deadline

    def _train(self, standing: Standing, steps: int, bar: tqdm) -> None:
        folder = self.folder / standing.name
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in folder.glob("checkpoint-*"):  # a killed process may have left half of one
            if not (checkpoint / _WHOLE).is_file():
                remove(checkpoint)
        begin, checkpoint = time.monotonic(), last_checkpoint(folder)
        made = 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))
        if made < steps:
            self._learn(standing.name, folder, steps, bar)
        model = self._read(standing.name, steps)
        standing.history.append((steps, *self.judge(standing.name, model)))
        if made < steps:
            self._taken += time.monotonic() - begin
            self._planned += self.plan.seconds_of(standing.name, made, [Rung(1, steps)])
        bar.update(min(self.plan.turn_seconds, bar.total - bar.n))
        write_json(self.folder / _STATE, [asdict(s) for s in self.standings.values() if s.steps])

    def _learn(self, name: str, folder: Path, steps: int, bar: tqdm) -> None:
        set_seed(self.settings.seed)
        given = {
            "max_steps": self.plan.steps,
            "save_strategy": "no",
            "save_total_limit": 2,
            "disable_tqdm": True,
            "logging_strategy": "no",
            "bf16": self.plan.bf16,
        }
        arguments = distillation_arguments(folder, self.settings, given)
        callback = _Rung(steps, max(1, int(_SAVES * self.plan.steps)), self.plan.step_seconds[name], bar)
        distil(
            self.make(name),
            self.tokenizer,
            self.rows,
            self.teacher,
            arguments,
            state_weight=self.settings.state_weight,
            callbacks=[callback],
        )

    def _read(self, name: str, steps: int) -> PreTrainedModel:
        return with_weights(self.make(name), self.folder / name / f"checkpoint-{steps}").eval()

    def _best_so_far(self) -> str:
        best = self.ranked()[0]
        return f"best so far: {best.name}, {100 * best.agreement:.1f} % {self.same}"


class _Rung(TrainerCallback):
    """Ends training at a step, saves now and then, and moves the bar."""

    def __init__(self, steps: int, save_steps: int, seconds: float, bar: tqdm):
        self.steps, self.save_steps, self.seconds, self.bar = steps, save_steps, seconds, bar

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(min(self.seconds, self.bar.total - self.bar.n))
        control.should_training_stop |= state.global_step >= self.steps
        control.should_save |= control.should_training_stop or state.global_step % self.save_steps == 0

    def on_save(self, args, state, control, **kwargs):
        write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE, state.global_step)
