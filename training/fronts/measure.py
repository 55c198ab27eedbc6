"""Score, speed and cascade of every model on a front, on the same rows and through the library's engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from fastmux.distillation.speed import tokens_of
from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.passes.cascade import agrees, choose_min_confidence, confidence
from fastmux.passes.engine import Engine
from fastmux.passes.timer import rates
from fastmux.passes.tokens import Tokens
from fastmux.searching.forms import INT8
from fastmux.searching.measure import answers_in_groups
from fastmux.training.fronts.candidates import ORIGINAL
from fastmux.training.metrics import Measure
from fastmux.training.run_result import Difference, Score
from fastmux.training.scoring import difference

#: The original in 8 bits, among the contestants.
SMALL_ORIGINAL = f"{ORIGINAL}, {INT8}"
#: The original without the engine, among what is timed.
_FORWARD = "forward"


@dataclass(frozen=True)
class Contestant:
    """A model to be measured.

    Attributes:
        engines: What runs it; several of the same structure, from several seeds. Speed and cascade are the first one's.
        parameters: Of the model; None of one that was not trained here.
        multiplexed: Rows or positions share a pass.
        cascade: It is to be measured with the original behind it, too.
        seconds: Of its training, as far as its folder knows.
        precision: "float32" or "int8".
        lever: What makes it faster, in the words of tables.
        embed: In place of engines, what makes vectors (texts, D) of texts.
    """

    engines: list[Engine]
    parameters: int | None = None
    multiplexed: bool = False
    cascade: bool = False
    seconds: float | None = None
    precision: str = "float32"
    lever: str = ""
    embed: Callable[[Sequence[str]], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What every front knows of a model.

    Attributes:
        name: Of the model.
        multiplexed: It is a T-MUX, or one whose positions share a pass; alone or in front of the original.
        rows_per_second: Through the engine, in turns with all others.
        speed_up: Over the original through the same engine.
        speed_up_forward: Over the original as Hugging Face alone runs it: `fastmux.distillation.speed.plain_forward`.
        parameters: Of the model that was trained.
        seconds: Of its training.
    """

    name: str
    multiplexed: bool = False
    rows_per_second: float
    speed_up: float
    speed_up_forward: float
    parameters: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point(Measured):
    """A point of the front of a task.

    Attributes:
        cascade: The original stands behind it.
        precision: "float32" or "int8"; of both models of a cascade.
        lever: What makes it faster, in the words of tables.
        score: Over the groupings; of several seeds, each one's mean.
        agreement: The share of rows with the original's label (with all its labels, of tokens and where there may be
            several), over the groupings; None of a regression.
        fallback: The share of the rows that a cascade sends on.
    """

    cascade: bool = False
    precision: str = "float32"
    lever: str = ""
    score: Score
    agreement: float | None
    fallback: float | None = None


def speeds(
    calls: Mapping[str, Callable[[], object]], forward: Callable[[], object], rows: int, clock: str
) -> dict[str, dict[str, float]]:
    """The speeds of `Measured` of all models by name, in turns.

    Args:
        calls: What answers all rows, by the model's name; the original is among them.
        forward: Runs them through the original as Hugging Face alone does.
    """
    print(f"== speed of {1 + len(calls)} in turns", flush=True)
    found = {
        name: rate.rows_per_second for name, rate in rates({**calls, _FORWARD: forward}, rows, clock=clock).items()
    }
    original, plain = found[ORIGINAL], found.pop(_FORWARD)
    return {
        name: {"rows_per_second": rate, "speed_up": rate / original, "speed_up_forward": rate / plain}
        for name, rate in found.items()
    }


class Measurement:
    """Measures on one set of rows.

    Args:
        rows: ``input_ids``, perhaps ``token_type_ids``, ``labels`` and what the metric reads.
        metric: One of `fastmux.training.metrics`; it gives the score ``name``.
        options: Those of `fastmux.training.front.FrontOptions` that are about measuring. ``groupings`` are random
            orders, hence groups, over which a score's mean and spread are; ``target_agreement`` has the shares of rows
            to which cascades give the original's label. A threshold is chosen on one half of the rows and applied to
            the other, both ways, and needs no label.

    Attributes:
        counts: After a call, what each row adds to the metric's counts, (rows, K), by the model's name: the mean over
            groupings and seeds.
    """

    def __init__(self, rows: Dataset, metric: Measure, name: str, options):
        self.rows, self.metric, self.name, self.options = rows, metric, name, options
        self.tokens = tokens_of(rows)
        order = np.random.default_rng(options.seed).permutation(len(rows))
        self.timed = self.tokens.select(np.sort(order[: options.max_rate_rows]))
        self.halves = [(order[::2], order[1::2]), (order[1::2], order[::2])]
        self.counts: dict[str, np.ndarray] = {}

    def __call__(self, contestants: Mapping[str, Contestant], forward: Callable[[Tokens], object]) -> list[Point]:
        """The points of all contestants, the original's first, each cascade's after its model's.

        Args:
            contestants: The models by name.
            forward: Runs rows through the original as Hugging Face alone does.

        Raises:
            ValueError: A cascade is asked for, but the original is a regression.
        """
        original = contestants[ORIGINAL].engines[0]
        cascades = [name for name, contestant in contestants.items() if contestant.cascade]
        if cascades and original.runtime.problem_type == "regression":
            raise ValueError(f"{cascades[0]}: cascade is true, but the original is a regression, which is never unsure")
        truth, groupings, seed = original.run(self.tokens).logits, self.options.groupings, self.options.seed
        calls: dict[str, Callable[[], object]] = {}
        found = {}
        for name, contestant in contestants.items():
            print(f"== {name}: scores", flush=True)
            groups = [answers_in_groups(engine, self.tokens, groupings, seed) for engine in contestant.engines]
            answers = [[one.logits for one in own] for own in groups]
            found[name] = (contestant, answers, None)
            calls[name] = partial(contestant.engines[0].run, self.timed)
            # The original that stands behind a model in 8 bits has 8 bits, if it is measured at all.
            second = SMALL_ORIGINAL if contestant.precision == INT8 and SMALL_ORIGINAL in contestants else ORIGINAL
            for target in self.options.target_agreement if contestant.cascade else ():
                rest = (truth, found[second][1][0][0], target)
                try:
                    together = [self._cascade(original, logits, *rest) for logits in answers[0]]
                except ValueError as error:
                    print(f"== {name}: no cascade: {error}", flush=True)
                    continue
                label = f" ({target:g})" if len(self.options.target_agreement) > 1 else ""
                behind_it, share = f"{name} + {second}{label}", float(np.mean([sent for _, sent, _ in together]))
                found[behind_it] = (contestant, [[logits for logits, *_ in together]], share)
                fallback = contestants[second].engines[0]
                both = replace(contestant.engines[0], fallback=fallback, min_confidence=together[0][2])
                calls[behind_it] = partial(both.run, self.timed)
        fast = speeds(calls, partial(forward, self.timed), len(self.timed.lengths), self.options.clock)
        points = []
        for name, (contestant, answers, share) in found.items():
            counts = [[self.counts_of(original, own) for own in said] for said in answers]
            scores = [[self.score_of(own) for own in said] for said in counts]
            self.counts[name] = np.mean([own for said in counts for own in said], axis=0)
            points.append(
                Point(
                    name=name,
                    multiplexed=contestant.multiplexed,
                    cascade=share is not None,
                    precision=contestant.precision,
                    lever=contestant.lever,
                    score=Score.of(scores[0] if len(scores) == 1 else [float(np.mean(own)) for own in scores]),
                    agreement=self._agreement(original, [own for said in answers for own in said], truth),
                    fallback=share,
                    parameters=contestant.parameters,
                    seconds=contestant.seconds,
                    **fast[name],
                )
            )
        return points

    def less(self, name: str, other: str) -> Difference:
        """A model's score less another's on the same rows, with a 95 % interval over rows."""
        return difference(self._score_of_sums, self.counts[name], self.counts[other])

    def _cascade(
        self,
        original: Engine,
        logits: np.ndarray,
        truth: np.ndarray,
        behind: np.ndarray,
        target: float,
    ) -> tuple[np.ndarray, float, float]:
        """Logits with what stands behind the model, the share of the rows that went on, and a threshold. The threshold
        is chosen on one half of the rows and applied to the other, both ways.

        Raises:
            ValueError: No threshold reaches the target.
        """
        lengths = self.tokens.lengths if original.runtime.per_token else None
        problem = original.runtime.problem_type
        sure, same = confidence(logits, problem, lengths), agrees(logits, truth, problem, lengths)
        right = agrees(behind, truth, problem, lengths)
        unsure = np.zeros(len(sure), bool)
        for choose, apply in self.halves:
            chosen = choose_min_confidence(sure[choose], same[choose], target, right[choose]).min_confidence
            unsure[apply] = sure[apply] < chosen
        goes_on = unsure if lengths is None else np.repeat(unsure, lengths)
        return np.where(goes_on[:, None], behind, logits), float(unsure.mean()), chosen

    def _agreement(self, original: Engine, answers: list[np.ndarray], truth: np.ndarray) -> float | None:
        problem, lengths = original.runtime.problem_type, self.tokens.lengths if original.runtime.per_token else None
        if problem == "regression":
            return None
        return float(np.mean([agrees(logits, truth, problem, lengths).mean() for logits in answers]))

    def score_of(self, counts: np.ndarray) -> float:
        """The score of what rows add to the metric's counts, (rows, K)."""
        return float(self._score_of_sums(counts.sum(0)))

    def _score_of_sums(self, sums: np.ndarray) -> np.ndarray:
        return self.metric.score(sums)[self.name]

    def counts_of(self, original: Engine, logits: np.ndarray) -> np.ndarray:
        """What each row adds to the metric's counts: (rows, K)."""
        labels, runtime = self.rows["labels"], original.runtime
        # Of several labels, and of numbers, a metric reads what the model says; of one label, which it is.
        said = logits.argmax(-1) if runtime.problem_type == "single_label_classification" else logits
        if not runtime.per_token:
            prediction = EvalPrediction(said, np.asarray(labels))
        else:
            inside = np.arange(self.tokens.lengths.max()) < self.tokens.lengths[:, None]
            ids, gold = np.zeros(inside.shape, int), np.full(inside.shape, IGNORE_INDEX)
            ids[inside], gold[inside] = said, np.concatenate(labels[:])
            prediction = EvalPrediction(ids, gold)
        return self.metric.count(prediction, self.rows)
