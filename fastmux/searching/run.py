"""One search, step by step: the original's answers, speeds before training, the race, the last measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from fastmux.distillation.distil import distillation_arguments
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.speed import engine_of, plain_forward
from fastmux.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from fastmux.distillation.trainer import TeacherCollator
from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.files import read_json, replacing, write_json
from fastmux.labelling.classifier import Classifier
from fastmux.passes.timer import rates
from fastmux.searching.floor import Floor, measure_floor, measure_vector_floor
from fastmux.searching.forms import FLOAT32, INT8, ORIGINAL, Form, exported, in_torch, why_not_exported
from fastmux.searching.kinds import ROWS, VECTORS, WORDS, Kind
from fastmux.searching.levers import Candidate, Source, candidates_for
from fastmux.searching.measure import Measure, Part
from fastmux.searching.need import Need
from fastmux.searching.plan import LEAST_STEPS, QUICKER, Plan, make_plan, step_seconds
from fastmux.searching.points import Point
from fastmux.searching.racer import Race
from fastmux.searching.rows import SearchRows
from fastmux.searching.settings import SearchSettings

_ANSWERS, _SETUP, _PLAN = "answers.npz", "setup.json", "plan.json"
#: The share of the minutes that the original may take to answer the rows that candidates learn from.
_TEACHING = 0.2
#: The most rows on which speed is measured, and the share of the minutes that the original may take for them once.
_TIMED_ROWS, _TIMED = 400, 0.003
#: How many forms are measured in the end, about, and the part of the original's time that each takes, about.
_FORMS, _OF_ORIGINAL = 9, 0.4
#: How much longer than planned a race may take before it goes on with fewer candidates.
_LATE = 1.1


@dataclass
class Run:
    """The steps of a search. What a step found is kept in ``folder`` and read there after an interruption.

    Args:
        classifier: The original.
        rows: The rows.
        settings: What is searched for.
        folder: A folder for what is under way.
        say: Told what is being done.
    """

    classifier: Classifier | Vectorizer
    rows: SearchRows
    settings: SearchSettings
    folder: Path
    say: Callable[[str], None]
    left_out: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.need = Need.of(self.settings, self.kind)
        self.folder.mkdir(parents=True, exist_ok=True)
        device = distillation_arguments(self.folder / "device", ConversionSettings(), {}).device
        self.original = self.classifier.model.eval().to(device)
        self.tokenizer = self.classifier.tokenizer
        self.engine = engine_of(self.original, self.tokenizer)

    @property
    def kind(self) -> Kind:
        """What models agree in."""
        if isinstance(self.classifier, Vectorizer):
            return VECTORS
        return WORDS if self.classifier.per_token else ROWS

    @cached_property
    def source(self) -> Source:
        """What candidates are made of."""
        return Source(self.original, self.rows.dataset(self.rows.learning[:512]), self.tokenizer)

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """The candidates that this original has, by name."""
        found = {}
        for candidate in candidates_for(self.original.config, "embed" if self.kind.embeds else "label"):
            try:
                candidate.make(self.source)
            except ValueError as error:
                self.left_out[candidate.name] = str(error)
            else:
                found[candidate.name] = candidate
        return found

    def make(self, name: str) -> PreTrainedModel | EmbeddingModel:
        """A candidate, before it learnt anything."""
        return self.candidates[name].make(self.source).eval().to(self.original.device)

    @cached_property
    def parts(self) -> tuple[Part, Part]:
        """The rows that choose and those that are reported on, with the original's answers."""
        rows, path = self.rows, self.folder / _ANSWERS
        tokens = [rows.tokens.select(some) for some in (rows.choosing, rows.reporting)]
        if not path.is_file():
            self.say(f"the original answers {len(rows.choosing) + len(rows.reporting):,} rows that are kept apart")
            start = time.monotonic()
            answers = [self.engine.run(part).logits for part in tokens]
            seconds = time.monotonic() - start
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, choosing=answers[0], reporting=answers[1], seconds=seconds)
        stored = np.load(path)
        problem, labels = self.classifier.problem_type, rows.labels
        kept = self.classifier.config.truncate_dim if isinstance(self.classifier, Vectorizer) else None
        chosen, told = (
            Part(part, stored[name], problem, None if labels is None else labels[some], kept)
            for name, part, some in zip(("choosing", "reporting"), tokens, (rows.choosing, rows.reporting), strict=True)
        )
        self.rate = 2 * len(rows.choosing) / max(float(stored["seconds"]), 1e-9)
        return chosen, told

    @cached_property
    def learning(self) -> tuple[Dataset, TeacherOutputs]:
        """The rows that candidates learn from, with the original's outputs; as many as it answers in its time."""
        path, settings = self.folder / _SETUP, self.settings
        if not path.is_file():
            if settings.max_steps is None:
                most = int(_TEACHING * 60 * settings.minutes * self.rate)
            else:
                most = settings.max_steps * settings.per_device_train_batch_size
            most = max(most, settings.per_device_train_batch_size)
            write_json(path, {"learning_rows": min(len(self.rows.learning), most)})
        some = self.rows.learning[: read_json(path)["learning_rows"]]
        data = self.rows.dataset(some)
        teacher = compute_teacher_outputs(
            self.original,
            self.tokenizer,
            data,
            self.folder / "teacher",
            fingerprint=str(len(some)),
            first_only=not self.classifier.per_token,
        )
        return data, teacher

    @cached_property
    def untrained(self) -> dict[str, Form]:
        """The forms of the original itself: as it is, and exported."""
        own = in_torch(ORIGINAL, "your model", self.original, self.tokenizer)
        forms = {own.name: own}
        for precision in (INT8, FLOAT32):
            if precision == FLOAT32 and len(forms) > 1:
                continue  # slower than 8 bits; only needed where these are not near enough
            form = self.export(own, self.original, precision)
            if form is not None and (precision == FLOAT32 or self._near(form)):
                forms[form.name] = form
        return forms

    def export(self, form: Form, model: PreTrainedModel | EmbeddingModel, precision: str) -> Form | None:
        """A form's model for ONNX Runtime; None, and a reason in ``left_out``, where that cannot be."""
        name = f"{form.model}, {precision}"
        reason = why_not_exported(str(self.original.device), precision)
        if not self._asked_for("onnxruntime", precision):
            reason = "another runtime or precision is asked for"
        if reason is None:
            self.say(f"{form.model}: written for ONNX Runtime, {precision}")
            start = time.monotonic()
            try:
                texts = [self.rows.texts[row] for row in self.rows.choosing[:32]]
                folder = self.folder / "exported" / name
                return exported(form, model, self.tokenizer, precision, folder, texts)
            except ValueError as error:
                reason = str(error)
            finally:
                self.export_seconds = time.monotonic() - start
        self.left_out[name] = reason
        return None

    export_seconds = 0.0

    def _asked_for(self, runtime: str, precision: str) -> bool:
        """Whether a form may be chosen."""
        settings = self.settings
        return settings.runtime in (None, runtime) and settings.precision in (None, precision)

    def _near(self, form: Form) -> bool:
        """Whether a form of the original is as near to it as is asked for; of a speed, all that are fast are near."""
        if self.need.agreement is None:
            return True
        logits = form.engine.run(self.parts[0].tokens).logits
        share = self.parts[0].share([logits])
        return share.surely() >= self.need.agreement

    def plan(self) -> Plan | None:
        """The race; None where no candidate is of any use.

        Raises:
            ValueError: There is too little time for one candidate.
        """
        path = self.folder / _PLAN
        if path.is_file():
            stored = read_json(path)
            self.speeds, self.fastest = stored["speeds"], stored["fastest"]
            return None if stored["plan"] is None else Plan.from_dict(stored["plan"])
        self.speeds, self.fastest = self._expected_speeds()
        names = self.need.fast_enough(self.speeds, self.fastest) if self.speeds else []
        exact = any(form.precision == FLOAT32 for form in self.untrained.values() if form.folder is not None)
        if exact and self.need.speedup is not None and self.fastest >= self.need.speedup:
            names = []  # nothing answers more like the original than its own export, which is fast enough
        for name in set(self.speeds) - set(names):
            self.left_out[name] = f"expected to be {self.speeds[name]:.1f} x as fast, too slow for {self.need}"
        plan = self._timed_plan(names) if names else None
        write_json(path, {"speeds": self.speeds, "fastest": self.fastest, "plan": plan and plan.as_dict()})
        return plan

    def _expected_speeds(self) -> tuple[dict[str, float], float]:
        """How fast candidates will be, in the original's speed: as fast as before they are trained, and in 8 bits, if
        there are any, as much faster as the original is. And the speed of the original's fastest form."""
        self.say("the speed of all candidates, before they are trained")
        tokens = self.parts[0].tokens.select(np.arange(self.timed_rows // 2))
        forms = {name: form.engine for name, form in self.untrained.items()}
        engines = forms | {name: engine_of(self.make(name), self.tokenizer) for name in self.candidates}
        calls = {name: partial(engine.run, tokens) for name, engine in engines.items()}
        found = rates(calls, len(tokens.lengths), repeats=2, clock=self.settings.clock)
        speeds = {name: rate.rows_per_second / found[ORIGINAL].rows_per_second for name, rate in found.items()}
        fastest = max(speeds[name] for name in forms)
        return {name: speeds[name] * fastest for name in self.candidates}, fastest

    def _timed_plan(self, names: list[str]) -> Plan:
        data, teacher = self.learning
        self.say("how long a step of each candidate takes")
        collate, batch = TeacherCollator(self.tokenizer, teacher), self.settings.per_device_train_batch_size
        time_of = partial(step_seconds, rows=data, collate=collate, teacher=teacher, batch=batch)
        first = self.make(names[0])
        bf16 = time_of(first, bf16=True) < QUICKER * time_of(first, bf16=False)
        steps = {name: time_of(self.make(name), bf16=bf16) for name in names}
        # The most promising first: the nearest to the speed that is asked for, as the fastest are the least like it.
        wanted = self.need.speedup or 4.0
        names = sorted(names, key=lambda name: abs(np.log(self.speeds[name] / wanted)))
        spent, finish = time.monotonic() - self.started, self._finish_seconds()
        left, turn = 60 * self.settings.minutes - spent - finish, _OF_ORIGINAL * len(self.rows.choosing) / self.rate
        try:
            return make_plan(names, steps, left, bf16, self.settings.max_steps, turn)
        except ValueError:
            least = np.ceil((spent + finish + turn + LEAST_STEPS * min(steps.values())) / 60 * 1.1)
            raise ValueError(
                f"minutes is {self.settings.minutes:g}, too few for one candidate: beside {spent:.0f} s until now and "
                f"about {finish:.0f} s to measure, {LEAST_STEPS} steps of the quickest take "
                f"{LEAST_STEPS * min(steps.values()):.0f} s; give at least {least:.0f}"
            ) from None

    def _finish_seconds(self) -> float:
        """About how long the last measurement takes."""
        rows = len(self.rows.choosing) + len(self.rows.reporting)
        labels = _FORMS * _OF_ORIGINAL * rows / self.rate
        speed = 8 * (2 + _FORMS * _OF_ORIGINAL) * self.timed_rows / self.rate
        return labels + speed + 2 * self.export_seconds

    @property
    def timed_rows(self) -> int:
        """On how many rows speed is measured."""
        most = int(max(0.2, _TIMED * 60 * self.settings.minutes) * self.rate)
        return min(_TIMED_ROWS, len(self.rows.reporting), max(most, 16))

    def race(self, plan: Plan) -> Race:
        """The race, from where it stopped."""
        data, teacher = self.learning
        settings = ConversionSettings(
            learning_rate=self.settings.learning_rate,
            per_device_train_batch_size=self.settings.per_device_train_batch_size,
            seed=self.settings.seed,
            # Vectors are learnt alone: the states that they are made of may have other places.
            state_weight=0.0 if self.kind.embeds else ConversionSettings.state_weight,
        )
        race = Race(
            plan, self.make, self._judge, self.tokenizer, data, teacher, settings, self.folder / "race", self.kind.same
        )
        if self.settings.max_steps is None:
            done = sum(plan.seconds_of(s.name, 0, plan.rungs[: len(s.history)]) for s in race.standings.values())
            race.deadline = time.monotonic() + _LATE * max(0.0, plan.seconds() - done)
        return race

    def _judge(self, name: str, model: PreTrainedModel | EmbeddingModel) -> tuple[float, float]:
        part = self.parts[0]
        logits = engine_of(model.to(self.original.device), self.tokenizer).run(part.tokens).logits
        share = part.share([logits]).mean
        return share, self.need.worth(self.speeds[name], share, *part.sure_and_same(logits), self.fastest)

    def finish(
        self, race: Race | None, finalists: int
    ) -> tuple[list[Point], dict[str, Form], dict[str, PreTrainedModel | EmbeddingModel]]:
        """The points of the original, its forms and the best candidates; their forms, and the models, by name."""
        forms, models = dict(self.untrained), {ORIGINAL: self.original}
        for standing in race.ranked()[:finalists] if race else []:
            candidate, model = self.candidates[standing.name], race.load(standing.name).to(self.original.device)
            own = in_torch(standing.name, candidate.words, model, self.tokenizer, candidate.multiplexed)
            small = self.export(own, model, INT8) or self.export(own, model, FLOAT32)
            if small is None or self._asked_for("torch", FLOAT32):
                forms[own.name] = own  # else the exported one alone
            forms |= {} if small is None else {small.name: small}
            models[standing.name] = model
        with tqdm(desc="measuring", bar_format="{desc} {elapsed}", leave=False) as bar:

            def on_work(words: str) -> None:
                bar.set_description(f"measuring: {words}")
                bar.update()

            chosen, told = self.parts
            timed = told.tokens.select(np.arange(self.timed_rows))
            forward = partial(plain_forward, self.original, self.tokenizer)
            measure = Measure(chosen, told, timed, forward, self.settings.clock, self.settings.seed, on_work)
            return measure(forms, self.need), forms, models

    def floor(self) -> Floor | None:
        """How far words alone go; None where words have labels."""
        if self.classifier.per_token:
            return None
        _, teacher = self.learning
        texts = [[self.rows.texts[row] for row in some] for some in (self.rows.learning, self.rows.reporting)]
        if self.kind.embeds:
            return measure_vector_floor(texts[0][: len(teacher.logits)], teacher.logits, texts[1], self.parts[1])
        several = self.classifier.problem_type == "multi_label_classification"
        learnt, expected = (
            (logits > 0).astype(int) if several else logits.argmax(-1)
            for logits in (teacher.logits, self.parts[1].original)
        )
        return measure_floor(texts[0][: len(learnt)], learnt, texts[1], expected)
