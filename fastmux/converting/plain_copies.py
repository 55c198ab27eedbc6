"""A quick estimate beside a conversion that joins: what plain copies of its speed keep of the original's answers, with
fewer or narrower layers, after as few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from fastmux.converting.kept import kept_by_row
from fastmux.distillation.distil import distil, distillation_arguments
from fastmux.distillation.settings import STRUCTURE, WIDTHS, ConversionSettings
from fastmux.distillation.speed import engine_of, tokens_of
from fastmux.distillation.teacher import TeacherOutputs
from fastmux.embedding.model import EmbeddingModel
from fastmux.files import read_json, replacing, write_json
from fastmux.passes.timer import rates
from fastmux.searching.levers import Source, fewer_layers, fewer_neurons, fewer_neurons_and_heads
from fastmux.searching.measure import GROUPINGS, answers_in_groups

#: The most steps of all plain copies together, as a share of the conversion's; with fewer steps than these, a copy has
#: learnt nothing that could be compared.
_SHARE, LEAST_STEPS = 0.2, 20
#: A plain copy is as fast as the conversion if it has this share of its speed, before both are measured side by side.
_AS_FAST = 0.97
#: The rows and the turns of that measurement.
_ROWS, _TURNS = 64, 3
#: One is better than the other if so many standard errors lie between them: nineteen times of twenty.
_SURELY = 1.645
_CHOICE = "choice.json"


@dataclass(frozen=True)
class PlainCopy:
    """A plain copy beside the conversion, both after the same steps, on the rows that nothing was trained on.

    Attributes:
        words: What it is: "3 of 6 layers".
        options: The options of ``fastmux convert`` that make it.
        steps: After how many steps the two are compared.
        speed_up: How many times as fast as the original it is, through the same engine; None if that is not known yet.
        kept: How much it keeps of the original's answers, as from `fastmux.converting.kept.kept_by_row`.
        beside: How much the conversion kept after as many steps.
        apart: The difference, in its standard errors over rows.
        at_end: How much the conversion keeps after all of its steps; None while it is training.
        apart_at_end: How far the plain copy, after its few steps, is from that, in standard errors.
    """

    words: str
    options: str
    steps: int
    speed_up: float | None
    kept: float
    beside: float
    apart: float
    at_end: float | None = None
    apart_at_end: float | None = None

    @property
    def better(self) -> bool:
        """Whether it surely keeps more after as many steps."""
        return self.apart > _SURELY

    @property
    def worse(self) -> bool:
        """Whether it surely keeps less after as many steps."""
        return self.apart < -_SURELY

    @property
    def better_than_all(self) -> bool:
        """Whether it surely keeps more after its few steps than the conversion does after all."""
        return self.apart_at_end is not None and self.apart_at_end > _SURELY

    @property
    def as_good_as_all(self) -> bool:
        """Whether it keeps as much after its few steps as the conversion does after all."""
        return self.apart_at_end is not None and self.apart_at_end > -_SURELY


@dataclass
class PlainCopies:
    """Trains plain copies of the original that are about as fast as a conversion, for a few of its steps, and compares.

    What is found is kept in ``folder``; after an interruption, it goes on from there.

    Args:
        original: The original.
        student_class: The class of the conversion, whose ``from_backbone`` makes students.
        tokenizer: Pads the rows.
        settings: The conversion's.
        trainer: The conversion's further arguments of the trainer.
        train: The rows that students learn from, with the original's outputs in ``teacher``.
        held_out: The rows that nothing is trained on.
        problem: The original's kind of labels; None without a head.
        folder: A folder for what is under way.
    """

    original: PreTrainedModel | EmbeddingModel
    student_class: Any
    tokenizer: PreTrainedTokenizerBase
    settings: ConversionSettings
    trainer: Mapping[str, object]
    train: Dataset
    teacher: TeacherOutputs
    held_out: Dataset
    problem: str | None
    folder: Path

    @cached_property
    def source(self) -> Source:
        """What plain copies are made of."""
        return Source(self.original, self.train.select(range(min(512, len(self.train)))), self.tokenizer)

    def make(self, settings: ConversionSettings) -> Any:
        """A student, before it learnt anything."""
        narrow = self.source.narrowed(*(getattr(settings, name) for name in WIDTHS))
        structure = {name: getattr(settings, name) for name in STRUCTURE}
        made = self.student_class.from_backbone(narrow, settings.num_instances, **structure)
        return made.eval().to(self.original.device)

    def choose(self, student: PreTrainedModel | EmbeddingModel, steps: int) -> bool:
        """Choose the plain copies: of each family, the slowest that is as fast as the student. Speed does not depend on
        weights.

        Args:
            student: The conversion, trained or not.
            steps: How many steps it makes in all.

        Returns:
            Whether there is one, and steps enough to compare.
        """
        path = self.folder / _CHOICE
        if not path.is_file():
            counts = [count for count in (2, 1) if int(_SHARE * steps / count) >= LEAST_STEPS]
            chosen = self._as_fast(student)[: counts[0]] if counts else []
            each = int(_SHARE * steps / max(1, len(chosen)))
            write_json(path, {"steps": each, "chosen": [[words, asdict(own)] for words, own in chosen]})
        stored = read_json(path)
        self.steps = stored["steps"]
        self.chosen = {words: _settings(own) for words, own in stored["chosen"]}
        return bool(self.chosen)

    def _as_fast(self, student: PreTrainedModel | EmbeddingModel) -> list[tuple[str, ConversionSettings]]:
        """The plain copies of both families, the slower one first."""
        families = (fewer_layers,), (fewer_neurons, fewer_neurons_and_heads)
        named = [{c.words: c for lever in levers for c in lever(self.original.config)} for levers in families]
        settings = {
            words: replace(self.settings, **{"join": "positions", **_PLAIN, **candidate.make.keywords})
            for family in named
            for words, candidate in family.items()
            if isinstance(candidate.make, partial)
        }
        some = tokens_of(self.held_out.select(range(min(_ROWS, len(self.held_out)))))
        calls = {"": partial(engine_of(student, self.tokenizer).run, some)}
        for words, own in settings.items():
            calls[words] = partial(engine_of(self.make(own), self.tokenizer).run, some)
        with tqdm(total=(_TURNS + 1) * len(calls), desc="speed of plain copies", unit="turn") as bar:
            found = rates(calls, len(some.lengths), repeats=_TURNS, on_turn=bar.update)
        speeds = {words: rate.rows_per_second for words, rate in found.items()}
        fast = [[words for words in family if speeds[words] >= _AS_FAST * speeds[""]] for family in named]
        slowest = [min(family, key=speeds.__getitem__) for family in fast if family]
        return [(words, settings[words]) for words in sorted(slowest, key=speeds.__getitem__)]

    def learn(self) -> None:
        """Train the chosen ones as the conversion is trained, for the first of its steps."""
        quiet = {"disable_tqdm": True, "logging_strategy": "no", "save_strategy": "steps", "save_total_limit": 1}
        with tqdm(total=self.steps * len(self.chosen), desc="plain copies", unit="step") as bar:
            for number, own in enumerate(self.chosen.values()):
                place = self.folder / str(number)
                if (place / _KEPT).is_file():
                    bar.update(self.steps)
                    continue
                given = {**self.trainer, **quiet, "save_steps": math.ceil(self.steps / 4)}
                arguments = distillation_arguments(place, own, given)
                watch = self.watch(place / _KEPT, partial(self.make, own), bar)
                student = self.make(own)
                weight = own.state_weight
                distil(
                    student, self.tokenizer, self.train, self.teacher, arguments, state_weight=weight, callbacks=[watch]
                )

    def watch(
        self,
        path: Path,
        make: Callable[[], Any],
        bar: tqdm | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> TrainerCallback:
        """A callback that judges a student after the steps, and writes how much of each row it keeps.

        Args:
            path: Where that is written.
            make: Makes such a student; the one that is training stays as it is.
            bar: Is moved by each step; training then ends with the steps.
            then: Called after it was written.
        """
        return _Watch(self.steps, lambda model: self._judge(path, make, model), bar, then)

    def _judge(self, path: Path, make: Callable[[], Any], model: PreTrainedModel) -> None:
        with torch.random.fork_rng(devices=[]):  # training goes on as if nobody had looked
            student = make()
        # A model that is training may run under autocast, and in training mode.
        student.load_state_dict(model.state_dict())
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, self.kept(student))

    @cached_property
    def _wanted(self) -> np.ndarray:
        return engine_of(self.original, self.tokenizer).run(self._tokens).logits

    @cached_property
    def _tokens(self):
        return tokens_of(self.held_out)

    def kept(self, model: PreTrainedModel | EmbeddingModel) -> np.ndarray:
        """How much of the original's answer a model keeps of each row, (rows): over groupings, if there are several."""
        found = answers_in_groups(engine_of(model, self.tokenizer), self._tokens, GROUPINGS, self.settings.seed)
        lengths = self._tokens.lengths
        return np.mean([kept_by_row(one.logits, self._wanted, self.problem, lengths) for one in found], axis=0)

    def models(self) -> dict[str, Any]:
        """The chosen ones by what they are, untrained: their speed is that of trained ones."""
        return {words: self.make(own) for words, own in self.chosen.items()}

    def compared(
        self, beside: Path, speeds: Sequence[float] | None = None, at_end: np.ndarray | None = None
    ) -> list[PlainCopy]:
        """The chosen ones beside the conversion.

        Args:
            beside: What `watch` wrote of the conversion.
            speeds: How many times as fast as the original each is, if that is known.
            at_end: What the conversion keeps of each row after all steps, (rows), if that is known.
        """
        ours, found = np.load(beside), []
        known = [None] * len(self.chosen) if speeds is None else speeds
        for number, ((words, own), speed_up) in enumerate(zip(self.chosen.items(), known, strict=True)):
            theirs = np.load(self.folder / str(number) / _KEPT)
            found.append(
                PlainCopy(
                    words=words,
                    options=options_of(own),
                    steps=self.steps,
                    speed_up=speed_up,
                    kept=float(theirs.mean()),
                    beside=float(ours.mean()),
                    apart=_apart(theirs, ours),
                    at_end=None if at_end is None else float(at_end.mean()),
                    apart_at_end=None if at_end is None else _apart(theirs, at_end),
                )
            )
        return found


_KEPT = "kept.npy"
#: The structure of a plain copy of all layers, as `ConversionSettings` has it.
_PLAIN = {
    name: getattr(ConversionSettings(), name)
    for name in ("row_layers", "last_layers", "first_layers", "joined_layers", *WIDTHS)
}


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far the mean of a figure over rows is from another one's, in standard errors of the difference."""
    difference = one - other
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return float(difference.mean() / error) if error else 0.0


def _settings(stored: dict[str, Any]) -> ConversionSettings:
    """What `asdict` made of settings, and JSON of that."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return ConversionSettings(**values)


class _Watch(TrainerCallback):
    """See `PlainCopies.watch`."""

    def __init__(self, steps: int, judge: Callable[[Any], None], bar: tqdm | None, then: Callable[[], None]):
        self.steps, self.judge, self.bar, self.then = steps, judge, bar, then

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.bar is not None:
            self.bar.update()
            control.should_training_stop |= state.global_step >= self.steps
        if state.global_step == self.steps:
            self.judge(model)
            self.then()


def steps_in_all(arguments: TrainingArguments, rows: int) -> int:
    """How many optimiser steps a training has."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batches = math.ceil(rows / arguments.train_batch_size)
    return math.ceil(arguments.num_train_epochs * math.ceil(batches / arguments.gradient_accumulation_steps))


def options_of(settings: ConversionSettings) -> str:
    """The options of ``fastmux convert`` for a structure, those alone that are not its usual ones.

    Example:
        >>> from fastmux.converting.plain_copies import options_of
        >>> from fastmux.distillation.settings import ConversionSettings
        >>> options_of(ConversionSettings(num_instances=1, row_layers=0, joined_layers=(), ffn_width=0.5))
        '--num_instances 1 --row_layers 0 --joined_layers --ffn_width 0.5'
    """
    usual, found = ConversionSettings(), []
    for name in ("num_instances", *STRUCTURE, *WIDTHS):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(found)
