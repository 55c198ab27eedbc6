"""Measure forms of models beside the original: answers on rows of their own, speed in turns, alone and with the
original behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from fastmux.distillation.agreement import compare_vectors
from fastmux.embedding.neighbours import NEIGHBOURS, nearest, same_neighbours
from fastmux.passes.cascade import CascadeThreshold, agrees, choose_min_confidence, confidence
from fastmux.passes.engine import Answered, Engine
from fastmux.passes.runtimes import EMBEDDING
from fastmux.passes.shares import Share, rows_of_words, same_labels
from fastmux.passes.timer import rates
from fastmux.passes.tokens import Tokens
from fastmux.searching.forms import INT8, ORIGINAL, SMALL_ORIGINAL, Form
from fastmux.searching.need import Need
from fastmux.searching.points import Point

#: Random groupings over which a model is measured whose answers depend on the rows of a group.
GROUPINGS = 3
#: The original without the engine, among what is timed.
_FORWARD = "forward"
#: The turns of a first, rough measurement, and of the last one.
_ROUGH, _TURNS = 2, 5
#: What a model with the original behind it is measured at where the model alone meets the need: the usual promise.
_USUAL = 0.99
#: Of the rows that could go on at a speed that is asked for, the share that does: speed must hold on other rows, too.
_SPARED = 0.9


@dataclass(frozen=True)
class Part:
    """Some rows, with the original's answers.

    Attributes:
        tokens: The rows.
        original: The original's logits, as in `fastmux.passes.engine.Answered`.
        problem_type: Of the original.
        labels: The true labels, (rows), or (rows, C); None without.
        dimensions: The first numbers of a vector that are compared, of a model that embeds; all if None.
    """

    tokens: Tokens
    original: np.ndarray
    problem_type: str
    labels: np.ndarray | None = None
    dimensions: int | None = None

    @property
    def embeds(self) -> bool:
        """Whether the answers are vectors."""
        return self.problem_type == EMBEDDING

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The nearest neighbours of each row, by the original's vectors."""
        return nearest(self.original[:, : self.dimensions])

    def share(self, answers: list[np.ndarray]) -> Share:
        """The share of the rows or words with the original's label, or of each row's nearest neighbours that are the
        same, over some groupings."""
        if self.embeds:
            found = [same_neighbours(nearest(a[:, : self.dimensions]), self.neighbours) for a in answers]
            rows = np.repeat(np.arange(len(self.neighbours)), NEIGHBOURS)
            return Share.of(np.mean(found, axis=0).ravel(), rows, self.neighbours.ravel())
        same = [same_labels(logits, self.original, self.problem_type, self.tokens) for logits in answers]
        return Share.of(np.mean(same, axis=0), rows_of_words(self.tokens))

    def score(self, answers: list[np.ndarray]) -> float | None:
        """Accuracy; of rows with several labels F1, over all of them (micro). None without labels."""
        if self.labels is None:
            return None
        if self.problem_type == "multi_label_classification":
            return float(np.mean([f1_score(self.labels, a > 0, average="micro", zero_division=0) for a in answers]))
        return float(np.mean([accuracy_score(self.labels, a.argmax(-1)) for a in answers]))

    def beside(self, answers: list[np.ndarray]) -> dict[str, float]:
        """Of vectors, their mean cosine with the original's and the rank correlation of similarities; else nothing."""
        if not self.embeds:
            return {}
        pairs = [compare_vectors(*(a[:, : self.dimensions] for a in (said, self.original))) for said in answers]
        cosine, similarities = np.mean(pairs, axis=0).tolist()
        return {"cosine": cosine, "similarities": similarities}

    def sure_and_same(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """For each row a model's confidence, and whether it has the original's labels; None where words have labels,
        and of vectors."""
        if self.tokens.words is not None or self.embeds:
            return None, None
        return confidence(logits, self.problem_type), agrees(logits, self.original, self.problem_type)


@dataclass
class Measure:
    """Measures on one set of rows.

    Attributes:
        choosing: The rows that thresholds are found on, and models chosen.
        reporting: The rows that figures are of.
        timed: The rows on which speed is measured.
        forward: Runs rows through the original as Hugging Face alone does.
        clock: One of `fastmux.passes.timer.CLOCKS`.
        seed: Draws groups.
        on_work: Called with what is being done.
    """

    choosing: Part
    reporting: Part
    timed: Tokens
    forward: Callable[[Tokens], object]
    clock: str
    seed: int
    on_work: Callable[[str], None] = lambda words: None

    def __call__(self, forms: Mapping[str, Form], need: Need) -> list[Point]:
        """The points of all forms, the original's first, and of those with the original behind them.

        Args:
            forms: By name, with the original's own in PyTorch as "original".
        """
        chosen_on, engines, behind = {}, {}, {}
        in_groups = partial(answers_in_groups, groupings=GROUPINGS, seed=self.seed)
        for name, form in forms.items():
            self.on_work(f"{name}: answers to the rows that choose")
            chosen_on[name] = [found.logits for found in in_groups(form.engine, self.choosing.tokens)]
            engines[name] = (form, form.engine, chosen_on[name])
        rough = self._speeds({name: form.engine for name, form in forms.items()}, _ROUGH)
        for name, form in forms.items():
            if form.model == ORIGINAL or form.engine.runtime.per_token or self.choosing.embeds:
                continue
            # In 8 bits both models are: what `predict --precision int8` does.
            originals = [SMALL_ORIGINAL, ORIGINAL] if form.precision == INT8 and SMALL_ORIGINAL in forms else [ORIGINAL]
            for second in originals:
                said = self.choosing.original if second == ORIGINAL else chosen_on[second][0]
                own, behind_it = (rough[one] / rough[ORIGINAL] for one in (name, second))
                thresholds = self._thresholds(chosen_on[name], said, own, behind_it, need)
                for threshold in thresholds:
                    both = replace(form.engine, fallback=forms[second].engine, min_confidence=threshold)
                    label = f"{name} + {second}" + (" (99 %)" if f"{name} + {second}" in engines else "")
                    engines[label] = (form, both, [self._behind(logits, said, threshold) for logits in chosen_on[name]])
                    behind[label] = second
                if thresholds:
                    break  # the faster original does
        speeds = self._speeds({name: engine for name, (_, engine, _) in engines.items()}, _TURNS, forward=True)
        points = []
        for name, (form, engine, on_choosing) in engines.items():
            self.on_work(f"{name}: answers to the rows that are reported on")
            found = in_groups(engine, self.reporting.tokens)
            answers = [one.logits for one in found]
            went_on = float(np.mean([len(one.went_on) for one in found])) / len(self.reporting.tokens.lengths)
            points.append(
                Point(
                    name=name,
                    form=form.name,
                    model=form.model,
                    words=form.words,
                    runtime=form.runtime,
                    precision=form.precision,
                    multiplexed=form.multiplexed,
                    choosing=self.choosing.share(on_choosing),
                    agreement=self.reporting.share(answers),
                    score=self.reporting.score(answers),
                    **self.reporting.beside(answers),
                    rows_per_second=speeds[name],
                    speed_up=speeds[name] / speeds[ORIGINAL],
                    speed_up_forward=speeds[name] / speeds[_FORWARD],
                    went_on=went_on if engine.fallback is not None else None,
                    min_confidence=engine.min_confidence,
                    behind=behind.get(name),
                )
            )
        return points

    def _behind(self, logits: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
        """What the choosing rows get from a model and one behind it, without running them again."""
        unsure = confidence(logits, self.choosing.problem_type) < threshold
        return np.where(unsure[:, None], second, logits)

    def _thresholds(
        self, answers: list[np.ndarray], second: np.ndarray, speed: float, second_speed: float, need: Need
    ) -> list[float]:
        """The confidences below which rows go on: as the need asks, and for the usual agreement.

        Args:
            answers: The model's logits, in each grouping.
            second: Those of the form of the original that stands behind it.
            speed, second_speed: The speed of both, in that of the original.
        """
        sure = np.concatenate([confidence(logits, self.choosing.problem_type) for logits in answers])
        same, behind = (
            np.concatenate([agrees(a, self.choosing.original, self.choosing.problem_type) for a in some])
            for some in (answers, [second] * len(answers))
        )
        alone = self.choosing.share(answers)
        found: list[float] = []
        if need.speedup is not None:
            if speed > need.speedup:
                going_on = _SPARED * (1 / need.speedup - 1 / speed) * second_speed
                found.append(float(np.quantile(sure, min(1.0, going_on))))
            targets = [_USUAL]
        elif alone.surely() < need.agreement:
            targets = [need.agreement]
        else:
            targets = [max(_USUAL, (1 + need.agreement) / 2)]
        for target in targets:
            if alone.surely() < target:
                threshold = _threshold(sure, same, behind, target, alone.effective)
                found += [] if threshold is None else [threshold.min_confidence]
        return found

    def _speeds(self, engines: Mapping[str, Engine], turns: int, forward: bool = False) -> dict[str, float]:
        calls: dict[str, Callable[[], object]] = {
            name: partial(engine.run, self.timed) for name, engine in engines.items()
        }
        if forward:
            calls[_FORWARD] = partial(self.forward, self.timed)
        self.on_work(f"speed of {len(calls)} in turns")
        found = rates(calls, len(self.timed.lengths), repeats=turns, clock=self.clock)
        return {name: rate.rows_per_second for name, rate in found.items()}


def _threshold(
    sure: np.ndarray, same: np.ndarray, behind: np.ndarray, target: float, effective: float
) -> CascadeThreshold | None:
    """The threshold at which a target is surely reached, on other rows, too; None if there is none."""
    low, high = target, 1.0
    for _ in range(20):  # the least share whose interval begins at the target
        middle = (low + high) / 2
        low, high = (middle, high) if Share(middle, effective, len(sure)).surely() < target else (low, middle)
    try:
        return choose_min_confidence(sure, same, min(high, 1.0), behind)
    except ValueError:
        return None


def answers_in_groups(engine: Engine, tokens: Tokens, groupings: int, seed: int) -> list[Answered]:
    """The answers in each of some random groupings; in one, if they do not depend on the rows of a group."""
    several = range(groupings if engine.runtime.num_instances > 1 else 1)
    return [engine.run(tokens, engine.shuffled_plan(tokens.lengths, seed, grouping)) for grouping in several]
