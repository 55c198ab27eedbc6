"""What a run finds: `RunResult` is ``metrics.json``, `VariantResult` what it has for a variant."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass

import datasets
import torch
import transformers

import fastmux


@dataclass(frozen=True)
class Score:
    """A score over several groupings of the rows.

    Attributes:
        mean, std: over the groupings; 0 for the latter if there is one grouping.
        values: for each grouping.
    """

    mean: float
    std: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Score:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, values)


@dataclass(frozen=True)
class Difference:
    """A score less the plain encoder's on the same rows.

    Attributes:
        mean: the difference; of a multiplexed model, of the mean over its groupings.
        low, high: its 95 % interval over draws of rows, see `training.scoring.difference`.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        steps: optimizer steps.
        seconds: of training, with the evaluations within, in the process that finished it.
        resumed_from: the step at which that process began.
        log: the Trainer's log history: losses and evaluations by step.
    """

    steps: int
    seconds: float
    resumed_from: int
    log: list[dict]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a trained variant.

    Attributes:
        parameters: of the task model.
        groupings: over which the scores are; 1 for the plain encoder.
        scores: by evaluation split and name of the score.
        slots: by evaluation split, the task's metric of the rows that had the first slot of their groups, the second,
            and so on; none for a model without slots.
        thresholds: of each label, where any of them may hold, the probability above which it is said to: chosen on the
            first split, whose own scores are those of 0.5, and used for the others. None where there is nothing to
            choose.
        retrieval_accuracy_after_warm_up, retrieval_accuracy: on held-out text, after that stage and at the end; None
            where there was no warm-up, or no retrieval loss beside the task's.
    """

    parameters: int
    groupings: int
    scores: dict[str, dict[str, Score]]
    slots: dict[str, list[Score]]
    thresholds: dict[str, float] | None
    retrieval_accuracy_after_warm_up: Score | None
    retrieval_accuracy: Score | None

    @classmethod
    def from_dict(cls, values: dict) -> Evaluation:
        """The inverse of `dataclasses.asdict`; what results that are kept elsewhere may lack is empty."""
        values = {"thresholds": None, "slots": {}, **values}
        scores = {split: {k: Score(**v) for k, v in found.items()} for split, found in values["scores"].items()}
        slots = {split: [Score(**v) for v in found] for split, found in values["slots"].items()}
        when = ("retrieval_accuracy_after_warm_up", "retrieval_accuracy")
        retrieval = {key: values[key] and Score(**values[key]) for key in when}
        return cls(**{**values, **retrieval, "scores": scores, "slots": slots})


@dataclass(frozen=True)
class Throughput:
    """Forward passes, timed.

    Attributes:
        instances_per_second: the median over the repeats, at the best batch size.
        rows: of that batch.
        relative_spread: interquartile range over median.
    """

    instances_per_second: float
    rows: int
    relative_spread: float


@dataclass(frozen=True)
class VariantResult(Evaluation):
    """All that a run found of one variant.

    Attributes:
        stages: by name, in their order: "retrieval" where there is a warm-up, "task".
        throughput: beside the other variants, in turn.
        ratio_to_plain: of instances per second; None where the plain encoder is no variant of the run.
        limit: the same, if nothing but the encoder cost.
        difference_to_plain: of the task's metric, by evaluation split; empty where the plain encoder is no variant.
    """

    stages: dict[str, StageResult]
    throughput: Throughput
    ratio_to_plain: float | None
    limit: float
    difference_to_plain: dict[str, Difference]

    @classmethod
    def from_dict(cls, values: dict) -> VariantResult:
        """As `Evaluation.from_dict`."""
        differences = values.get("difference_to_plain", {}).items()
        return super().from_dict(
            {
                **values,
                "stages": {name: StageResult(**{"log": [], **stage}) for name, stage in values["stages"].items()},
                "throughput": Throughput(**values["throughput"]),
                "difference_to_plain": {split: Difference(**own) for split, own in differences},
            }
        )


@dataclass(frozen=True)
class RunResult:
    """``metrics.json``.

    Attributes:
        task, metric: name of the task, and of the score that the table shows.
        environment: versions and device.
        settings: what must be the same for the run to be resumed.
        data: labels and numbers of rows.
        variants: by name.
        sentences: what multiplexing bought, one for each multiplexed variant that has a plain rival.
        seconds: of the process that finished the run.
    """

    task: str
    metric: str
    environment: dict[str, object]
    settings: dict[str, object]
    data: dict[str, object]
    variants: dict[str, VariantResult]
    sentences: list[str]
    seconds: float

    @classmethod
    def from_dict(cls, values: dict) -> RunResult:
        """The inverse of `dataclasses.asdict`.

        Raises:
            KeyError, TypeError: it is not what a run wrote.
        """
        variants = {name: VariantResult.from_dict(own) for name, own in values["variants"].items()}
        return cls(**{"sentences": [], **values, "variants": variants})


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
