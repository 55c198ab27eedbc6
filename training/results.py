"""What a run finds: `RunResult` is ``metrics.json``, `VariantResult` what it has for a variant."""

from __future__ import annotations

import platform
import statistics
import types
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import datasets
import torch
import transformers

import fastmux
from training.formatting import measured


@dataclass(frozen=True)
class Score:
    """A score over several groupings of the rows.

    Attributes:
        mean, std: Over the groupings; the latter is 0 if there is one grouping.
        values: One for each grouping.
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
        mean: The difference; of a multiplexed model, that of the mean over its groupings.
        low, high: The ends of its 95 % interval over draws of rows, see `training.scoring.difference`.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        steps: The optimizer's steps.
        seconds: How long training and the evaluations within took the process that finished it.
        resumed_from: The step at which that process began.
        log: The Trainer's log history: losses and evaluations by step.
    """

    steps: int
    seconds: float
    resumed_from: int
    log: list[dict] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a trained variant.

    Attributes:
        parameters: The number of the task model's parameters.
        groupings: How many groupings the scores are of; 1 for the plain encoder.
        scores: By evaluation split and name of the score.
        slots: By evaluation split, the task's metric of the rows that had the first slot of their groups, the second,
            and so on; none for a model without slots.
        thresholds: Where several labels may hold, the probability above which each is said to: chosen on the
            first split, whose own scores are those of 0.5, and used for the others. None where there is nothing to
            choose.
        retrieval_accuracy_after_warm_up, retrieval_accuracy: On held-out text, after that stage and at the end; None
            where there was no warm-up, or no retrieval loss beside the task's.
    """

    parameters: int
    groupings: int
    scores: dict[str, dict[str, Score]]
    slots: dict[str, list[Score]] = field(default_factory=dict)
    thresholds: dict[str, float] | None = None
    retrieval_accuracy_after_warm_up: Score | None
    retrieval_accuracy: Score | None


@dataclass(frozen=True)
class Throughput:
    """Rows of full length through the library's engine, all variants in turns.

    Attributes:
        instances_per_second: The median over the turns.
        slowest, fastest: The turns at both ends. None in results of former versions, which timed forward passes.
    """

    instances_per_second: float
    slowest: float | None = None
    fastest: float | None = None


@dataclass(frozen=True, kw_only=True)
class VariantResult(Evaluation):
    """All that a run found of one variant.

    Attributes:
        stages: By name, in their order: "retrieval" where there is a warm-up, "task".
        throughput: Measured in turns with the other variants.
        ratio_to_plain: Instances per second over the plain encoder's, both through the engine; None where that is no
            variant.
        limit: The same ratio if nothing but the encoder took time.
        difference_to_plain: The task's metric less the plain encoder's, by evaluation split; empty where that is no
            variant.
    """

    stages: dict[str, StageResult]
    throughput: Throughput
    ratio_to_plain: float | None
    limit: float
    difference_to_plain: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """``metrics.json``.

    Attributes:
        task, metric: The names of the task and of the score that the table shows.
        environment: Versions and device.
        settings: What must be the same for the run to be resumed.
        data: Labels and numbers of rows.
        variants: What was found of each, by name.
        sentences: What multiplexing bought, one for each multiplexed variant that has a plain rival.
        seconds: How long the process took that finished the run.
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
    """The inverse of `dataclasses.asdict`, of a dataclass or of what its fields are made of. Keys that the class does
    not have are left out, so that results of former versions are read as well.

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


def environment() -> dict[str, object]:
    """What the figures depend on besides the settings."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "fastmux": fastmux.__version__,
    }
