"""The results of a run: `RunResult` is the content of ``metrics.json``, `VariantResult` the part of one variant."""

from __future__ import annotations

import statistics
import types
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from fastmux.training.formatting import measured


@dataclass(frozen=True)
class Score:
    """A score over several groupings of the rows.

    Attributes:
        mean, std: The mean and the standard deviation over the groupings; the latter is 0 for one grouping.
        values: The score in each grouping.
    """

    mean: float
    std: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Score:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, values)

    def __str__(self) -> str:
        return measured(self.mean, self.std)


@dataclass(frozen=True)
class Difference:
    """A score less the plain encoder's on the same rows.

    Attributes:
        mean: The difference. A multiplexed model's score is the mean over its groupings.
        low, high: The ends of its 95 % interval, see `fastmux.training.scoring.difference`.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        steps: The number of the optimizer's steps.
        seconds: The time that training and its evaluations took in the process that finished it.
        resumed_from: The step at which that process began; 0 if it was not resumed.
        log: The Trainer's log history: losses and evaluations by step.
    """

    steps: int
    seconds: float
    resumed_from: int
    log: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Throughput:
    """The speed of rows of full length through the library's engine, all variants in turns.

    Attributes:
        instances_per_second: The median over the turns.
        slowest, fastest: The turns at both ends. None in results of former versions, which timed forward passes.
    """

    instances_per_second: float
    slowest: float | None = None
    fastest: float | None = None


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """The results of one variant.

    Attributes:
        stages: The stages by name, in their order: "retrieval", if there is a warm-up, and "task".
        parameters: The number of the task model's parameters.
        groupings: The number of groupings that were scored; 1 for a model without slots.
        scores: The scores by evaluation split and name.
        slots: For each evaluation split, the task's metric of the rows that had the first slot of their groups, the
            second, and so on; empty for a model without slots.
        thresholds: Where a row may have several labels, the probability above which each is predicted. It is chosen on
            the first split, which itself is scored at 0.5, and used for the others. None for other tasks, and where
            there is one split.
        retrieval_accuracy_after_warm_up, retrieval_accuracy: The retrieval accuracy on held-out text after the warm-up,
            and at the end. None without a warm-up, or without a retrieval loss beside the task's.
        difference_to_plain: The task's metric less the plain encoder's, by evaluation split; empty if that was not
            trained.
        throughput: The speed, measured in turns with the other variants.
        ratio_to_plain: The speed over the plain encoder's, both through the engine; None if that was not trained.
        limit: What this ratio would be if nothing but the encoder took time.
    """

    stages: dict[str, StageResult]
    parameters: int
    groupings: int
    scores: dict[str, dict[str, Score]]
    slots: dict[str, list[Score]] = field(default_factory=dict)
    thresholds: dict[str, float] | None = None
    retrieval_accuracy_after_warm_up: Score | None
    retrieval_accuracy: Score | None
    difference_to_plain: dict[str, Difference] = field(default_factory=dict)
    throughput: Throughput
    ratio_to_plain: float | None
    limit: float


@dataclass(frozen=True)
class RunResult:
    """The content of ``metrics.json``.

    Attributes:
        task, metric: The names of the task and of the score that the table shows.
        environment: The versions and the device.
        settings: The settings that must be the same for the run to be resumed.
        data: The labels and the numbers of rows.
        variants: The results of each variant by name.
        sentences: What multiplexing gained: a sentence for each multiplexed variant with a plain rival.
        seconds: The time of the process that finished the run.
    """

    task: str
    metric: str
    environment: dict[str, object]
    settings: dict[str, object]
    data: dict[str, object]
    variants: dict[str, VariantResult]
    seconds: float
    sentences: list[str] = field(default_factory=list)


def of_json(kind: Any, values: Any) -> Any:
    """The inverse of `dataclasses.asdict`. Keys that the class does not have are left out, so that results of former
    versions can be read.

    Raises:
        AttributeError, TypeError: The values are not those of such a class.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: of_json(hints[name], value) for name, value in values.items() if name in hints})
    if origin in (Union, types.UnionType):
        return None if values is None else of_json(inner[0], values)
    if origin is dict:
        return {key: of_json(inner[1], value) for key, value in values.items()}
    return [of_json(inner[0], value) for value in values] if origin is list else values
