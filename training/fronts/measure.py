"""Score, speed and cascade of every model on a front, on the same rows and in the same process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import padded
from fastmux.models.problems import MultiLabel, Regression, SingleLabel, TokenLabels
from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.passes.cascade import agrees, choose_min_confidence, confidence
from fastmux.passes.plan import Layout, plan_passes
from fastmux.passes.timer import CLOCKS
from training.fronts.candidates import ORIGINAL
from training.results import Score
from training.side_by_side import rows_per_second

#: Padded tokens of a batch while scores are taken.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Contestant:
    """A model to be measured.

    Attributes:
        models: in eval mode; several of the same structure, from several seeds. Speed and cascade are the first one's.
        multiplexed: whether rows or positions share a pass.
        num_instances: batches have a multiple of so many rows.
        companions: whether a row's answer depends on the rows of its batch; it is scored on several groupings then.
        cascade: whether it is to be measured with the original behind it, too.
        seconds: of its training, as far as this process knows.
    """

    models: list[PreTrainedModel]
    multiplexed: bool = False
    num_instances: int = 1
    companions: bool = False
    cascade: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Entry:
    """A point of the front.

    Attributes:
        name: of the model.
        multiplexed: whether it is a T-MUX, alone or in front of the original.
        cascade: whether the original stands behind it.
        score: over the groupings; of several seeds, each one's mean.
        agreement: share of rows with the original's label (with all its labels, of tokens and where there may be
            several), over the groupings; None of a regression.
        rows_per_second, speed_up: measured in turns with all others; over the original.
        fallback: share of the rows that a cascade sends on.
        parameters: of the model that was trained.
        seconds: of its training.
    """

    name: str
    multiplexed: bool
    cascade: bool
    score: Score
    agreement: float | None
    rows_per_second: float
    speed_up: float
    fallback: float | None = None
    parameters: int | None = None
    seconds: float | None = None


class Measure:
    """Measures on one set of rows.

    Args:
        tokenizer: pads them.
        rows: what the models take, ``length``, ``labels`` and what the metric reads.
        metric: of `training.metrics`; gives the score ``name``.
        groupings: random orders, hence groups; a score's mean and spread are over them.
        rate_rows: rows on which speed is measured, at most, drawn from ``rows``.
        clock: "wall"; or "cpu", the time that the process had, for a machine with other work to do.
        target_agreement: of a cascade with the original. Its threshold is chosen on one half of the rows and applied
            to the other, both ways, and needs no label.
        problem: the kind of labels, as of `fastmux.models.problems.problem_of`, of every model.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        metric: Callable[[EvalPrediction, Dataset], dict[str, float]],
        name: str,
        *,
        groupings: int,
        rate_rows: int,
        target_agreement: float,
        seed: int,
        clock: str = "wall",
        problem: str = SingleLabel.name,
    ):
        self.tokenizer, self.rows, self.metric, self.name = tokenizer, rows, metric, name
        self.groupings, self.target, self.seed = groupings, target_agreement, seed
        self.clock = CLOCKS[clock]
        self.inputs = model_inputs(rows)
        # Labels of tokens are compared as one of each token.
        self.problem = SingleLabel.name if problem == TokenLabels.name else problem
        order = np.random.default_rng(seed).permutation(len(rows))
        self.rate_places, halves = np.sort(order[:rate_rows]), (order[::2], order[1::2])
        self.halves = [(halves[0], halves[1]), (halves[1], halves[0])]

    def __call__(self, contestants: Mapping[str, Contestant], behind: PreTrainedModel) -> list[Entry]:
        """The points of all contestants, the original's first, each cascade's after its model's.

        Args:
            contestants: by name.
            behind: answers as the original does; second in a cascade.
        """
        asked = [name for name, contestant in contestants.items() if contestant.cascade]
        if asked and self.problem == Regression.name:
            raise ValueError(f"{asked[0]}: cascade is true, but the original is a regression, which is never unsure")
        truth = self.answers(contestants[ORIGINAL].models[0], 1, 0)
        timed = self.inputs.select(self.rate_places)
        passes, found = {}, {}
        for name, contestant in contestants.items():
            orders = range(self.groupings if contestant.companions else 1)
            print(f"== {name}: scores on {len(orders)} grouping{'s' * (len(orders) > 1)}", flush=True)
            n, models = contestant.num_instances, contestant.models
            by_model = [[self.answers(model, n, grouping) for grouping in orders] for model in models]
            found[name] = (
                contestant,
                by_model,
                self._agreement([own for said in by_model for own in said], truth),
                None,
            )
            passes[name] = [(models[0], timed)]
            if contestant.cascade:
                together = [self._cascade(own, truth) for own in by_model[0]]
                if None in together:
                    print(f"== {name}: no threshold gives an agreement of {self.target}", flush=True)
                    continue
                behind_it = f"{name} + {ORIGINAL}"
                both = [mixed for mixed, _ in together]
                sent = together[0][1]
                share = np.mean([np.mean(on) for _, on in together])
                found[behind_it] = (contestant, [both], self._agreement(both, truth), share)
                on = self.inputs.select(np.flatnonzero(sent[self.rate_places]))
                passes[behind_it] = [(models[0], timed), (behind, on)]
        print(f"== speed of {len(passes)} in turns", flush=True)
        most = int(np.lcm.reduce([c.num_instances for c in contestants.values()]))
        rates = rows_per_second(passes, self.tokenizer, len(timed), multiple=most, clock=self.clock)
        entries = []
        for name, (contestant, by_model, agreement, share) in found.items():
            scores = [[self._score(own) for own in said] for said in by_model]
            entries.append(
                Entry(
                    name=name,
                    multiplexed=contestant.multiplexed,
                    cascade=share is not None,
                    score=Score.of(scores[0] if len(scores) == 1 else [float(np.mean(own)) for own in scores]),
                    agreement=agreement,
                    rows_per_second=rates[name],
                    speed_up=rates[name] / rates[ORIGINAL],
                    fallback=None if share is None else float(share),
                    parameters=sum(p.numel() for p in contestant.models[0].parameters()),
                    seconds=contestant.seconds,
                )
            )
        return entries

    @torch.inference_mode()
    def answers(self, model: PreTrainedModel, num_instances: int, grouping: int) -> list[Tensor]:
        """Logits of every row, (C) or (L, C), in the order of the rows; companions are rows of like length, drawn by
        the grouping."""
        order = np.random.default_rng([self.seed, grouping]).permutation(len(self.inputs))
        lengths = np.asarray(self.inputs["length"])
        said: list[Tensor] = [torch.empty(0)] * len(order)
        for batch in plan_passes(lengths[order], BATCH_TOKENS, Layout(num_instances, num_instances)):
            places = order[batch]
            logits = model(**padded(self.inputs, places, self.tokenizer).to(model.device)).logits
            for own, place in zip(logits.float().cpu(), places, strict=True):
                said[place] = own if own.dim() == 1 else own[: lengths[place]]
        return said

    def _agreement(self, answers: list[list[Tensor]], truth: list[Tensor]) -> float | None:
        if self.problem == Regression.name:
            return None
        return float(np.mean([np.mean(self._same(said, truth)) for said in answers]))

    def _same(self, said: list[Tensor], truth: list[Tensor]) -> np.ndarray:
        return agrees(_flat(said), _flat(truth), self.problem, _lengths(said))

    def _cascade(self, said: list[Tensor], truth: list[Tensor]) -> tuple[list[Tensor], np.ndarray] | None:
        """Answers with the original behind, and which rows went on to it; None if no threshold reaches the target."""
        sure = confidence(_flat(said), self.problem, _lengths(said))
        same = self._same(said, truth)
        on = np.zeros(len(said), dtype=bool)
        for choose, apply in self.halves:
            try:
                threshold = choose_min_confidence(sure[choose], same[choose], self.target).min_confidence
            except ValueError:
                return None
            on[apply] = sure[apply] < threshold
        return [b if sent else a for a, b, sent in zip(said, truth, on, strict=True)], on

    def _score(self, said: list[Tensor]) -> float:
        labels = self.rows["labels"]
        if said[0].dim() == 1:
            logits = torch.stack(said).numpy()
            # Of several labels, and of numbers, a metric reads what the model says; of one label, which it is.
            several = self.problem in (MultiLabel.name, Regression.name)
            prediction = EvalPrediction(logits if several else logits.argmax(-1), np.asarray(labels))
        else:
            longest = max(map(len, said))
            shape = (len(said), longest)
            ids, gold = np.zeros(shape, dtype=int), np.full(shape, IGNORE_INDEX)
            for row, (own, true) in enumerate(zip(said, labels, strict=True)):
                ids[row, : len(own)], gold[row, : len(true)] = own.argmax(-1).numpy(), true
            prediction = EvalPrediction(ids, gold)
        return self.metric(prediction, self.rows)[self.name]


def _flat(said: list[Tensor]) -> np.ndarray:
    """Logits of all rows, (rows, C), or of their tokens, (tokens, C)."""
    return (torch.stack(said) if said[0].dim() == 1 else torch.cat(said)).numpy()


def _lengths(said: list[Tensor]) -> np.ndarray | None:
    """The tokens of each row, where logits are of tokens."""
    return None if said[0].dim() == 1 else np.array([len(own) for own in said])


def model_inputs(rows: Dataset) -> Dataset:
    """Of rows, what models take and what the planning of batches does."""
    names = ("input_ids", "attention_mask", "token_type_ids", "length")
    return rows.select_columns([name for name in names if name in rows.column_names])
