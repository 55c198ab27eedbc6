"""A run of ``curves.py``: every student is trained from point to point, all of them up to one before any goes on."""

from __future__ import annotations

import time
from dataclasses import asdict

from tqdm.auto import tqdm

from fastmux.files import changes, read_json, write_json
from fastmux.training.fronts.candidates import Candidate
from fastmux.training.fronts.curve_figures import Curve, Figures
from fastmux.training.fronts.curve_models import CurveModels, Student
from fastmux.training.fronts.curve_verdict import curve_table, plot, sentence
from fastmux.training.fronts.growth import Growth, Stop, length_of

_SPEEDS = "speeds.json"


class CurveRun:
    """All students on their way.

    Args:
        options: See `fastmux.training.curves.CurveOptions`.
        models: Makes and scores students.
        candidates: The students.
    """

    def __init__(self, options, models: CurveModels, candidates: list[Candidate]):
        self.options, self.models, self.candidates = options, models, candidates
        self.stops = [Stop.at(n, options.per_device_train_batch_size) for n in options.points]
        self.known: dict[str, Student] = {}
        self.speeds: dict[str, dict[str, float]] = {}
        self._bar: tqdm | None = None

    def growth(self, candidate: Candidate, seed: int) -> Growth:
        """A student at one seed."""
        batch, rate = self.options.per_device_train_batch_size, candidate.learning_rate or self.options.learning_rate
        folder = self.models.place(candidate.name, seed)
        return Growth(
            folder,
            lambda: self.models.learner(candidate, seed, self.known[candidate.name].bf16),
            rate,
            self.options.warm_up // batch,
            batch,
        )

    def check(self) -> None:
        """Raise ValueError for a student that another entry made or another original taught, or whose trunk has gone
        past a point."""
        self.models.check_teacher()
        for candidate in self.candidates:
            path = self.models.place(candidate.name) / "student.json"
            was = read_json(path)["entry"] if path.is_file() else None
            now = self.models.entry(candidate)
            if was is not None and (changed := changes(was, now, {**was, **now})):
                raise ValueError(f"{path} is of another {candidate.name}: {changed}. Give it another name, or a folder")
            for seed in self.options.seeds:
                growth = self.growth(candidate, seed)
                stands = growth.trunk
                if gone := [stop for stop in growth.waiting(self.stops) if stop.leave < stands]:
                    raise ValueError(
                        f"--points {gone[0].steps * growth.batch}: {candidate.name}, seed {seed}, stands at "
                        f"{stands * growth.batch:,} row-updates, past the place where that point leaves. Give later "
                        "points, or another --output_dir"
                    )

    def prepare(self) -> None:
        """Train the original, if there is none; measure speeds, and what a step takes."""
        _ = self.models.teacher
        path = self.models.folder / _SPEEDS
        self.speeds = read_json(path) if path.is_file() else {}
        if any(own.name not in self.speeds for own in self.candidates):
            # All in turns: a new one alone could not be compared with the others.
            self.speeds |= self.models.speeds(self.candidates)
            write_json(path, self.speeds)
        for candidate in self.candidates:
            print(f"== {candidate.name}: what a step takes", flush=True)
            self.known[candidate.name] = self.models.student(candidate)

    def measure(self, stop: Stop) -> None:
        """Train all students, of all seeds, up to one point."""
        if self._bar is None:
            self._bar = self._new_bar()
        for seed in self.options.seeds:
            for candidate in self.candidates:
                self._last = time.perf_counter()
                given = (lambda: self._on_step(candidate.name), self.options.save_seconds)  # noqa: B023
                self.growth(candidate, seed).measure(stop, self.models.score, *given)

    def _new_bar(self) -> tqdm:
        self._left = dict.fromkeys(self.known, 0)
        for candidate in self.candidates:
            for seed in self.options.seeds:
                growth = self.growth(candidate, seed)
                self._left[candidate.name] += length_of(growth.waiting(self.stops), growth.trunk)
        # Until a student's own steps are seen.
        self._taken = {name: min(known.step_seconds.values()) for name, known in self.known.items()}
        rows = sum(self._left.values()) * self.options.per_device_train_batch_size
        shown = "{n:,} " + f"of {rows:,} row-updates, " + "{elapsed}{postfix}"
        return tqdm(total=rows, unit="row", bar_format=shown, mininterval=5.0, disable=not rows)

    def _on_step(self, name: str) -> None:
        now = time.perf_counter()
        self._left[name] -= 1
        self._taken[name] += 0.02 * (now - self._last - self._taken[name])
        self._last = now
        rest = sum(max(0, steps) * self._taken[own] for own, steps in self._left.items())
        rate = self.options.per_device_train_batch_size / self._taken[name]
        self._bar.set_postfix_str(f"{name}: {rate:.0f} rows/s, the rest takes {rest / 3600:.1f} h", refresh=False)
        self._bar.update(self.options.per_device_train_batch_size)

    def found(self) -> dict:
        """What `curves.json` says, of all that is there; three pictures are drawn beside it."""
        models, metric = self.models, self.models.task.metric
        stored = {}
        for candidate in self.candidates:
            own = {seed: self.growth(candidate, seed).points() for seed in self.options.seeds}
            if own := {seed: points for seed, points in own.items() if points}:
                stored[candidate.name] = own
        figures = Figures(stored, models.metric, metric, models.constant)
        curves = [self._curve(own, figures) for own in self.candidates if own.name in stored]
        plain = [curve for curve in curves if not curve.multiplexed]
        gaps = [gap for curve in curves if curve.multiplexed and (gap := figures.gap(curve, plain))]
        title = f"{models.task.name}, {len(models.evaluation)} rows; squares: plain students"
        for stem, x, label in (
            ("curves", "row_updates", "row-updates"),
            ("curves_time", "seconds", "processor seconds of training"),
            ("curves_passes", "passes", "passes of the encoder"),
        ):
            plot(models.folder / f"{stem}.png", curves, title, metric, x, label)
        return {
            "task": models.task.name,
            "metric": metric,
            "rows": models.counts(),
            "constant": models.constant,
            "curves": [asdict(curve) for curve in curves],
            "gaps": [asdict(gap) | {"closes": gap.closes} for gap in gaps],
            "table": curve_table(curves, metric),
            "sentences": [sentence(gap, curves) for gap in gaps],
        }

    def _curve(self, candidate: Candidate, figures: Figures) -> Curve:
        name, known = candidate.name, self.known[candidate.name]
        return Curve(
            name=name,
            multiplexed=candidate.multiplexed,
            num_instances=candidate.num_instances,
            parameters=known.parameters,
            bf16=known.bf16,
            **self.speeds[name],
            points=figures.points(name, candidate.num_instances, known.flops_a_row, len(self.models.rows)),
            begins=figures.begins(name),
            agreement=figures.law(name, 0),
            score=figures.law(name, 1),
        )
