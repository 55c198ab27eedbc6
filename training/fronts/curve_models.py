"""The students of a curve: what they learn from, how they are trained up to a point and scored there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from fastmux.distillation.distil import variance_of
from fastmux.distillation.speed import engine_of, plain_forward
from fastmux.distillation.teacher import compute_teacher_outputs
from fastmux.distillation.texts import read_texts, tokenize
from fastmux.distillation.trainer import ROW, TeacherCollator, distillation_loss, states_and_logits
from fastmux.files import read_json, write_json
from fastmux.models.problems import PROBLEMS, problem_of
from fastmux.passes.cascade import agrees
from fastmux.passes.engine import Engine
from fastmux.searching.measure import answers_in_groups
from fastmux.searching.plan import QUICKER, step_seconds
from fastmux.tables.opening import open_source
from fastmux.tables.values import column_names
from fastmux.training.fronts.candidates import ORIGINAL, Candidate
from fastmux.training.fronts.masked import states_everywhere
from fastmux.training.fronts.measure import Measurement, speeds
from fastmux.training.fronts.models import TEACHER
from fastmux.training.fronts.task_models import TaskModels
from fastmux.training.learner import Learner, Order
from fastmux.training.tasks.base import Task

#: The columns of the two texts of a pair in the files of GLUE.
_PAIR = ("sentence1", "sentence2")
_TEACHER_FIRST = f"{TEACHER}-first"


@dataclass(frozen=True)
class Student:
    """What is known of a student before it learns; its folder keeps it, so that no later process decides anew.

    Attributes:
        entry: The candidate, as its file has it.
        bf16: It trains under bfloat16 autocast, since this was quicker.
        step_seconds: How long a step's forward and backward took, by precision.
        flops_a_row: The floating-point operations of a row in training, forward and backward, in matrix products.
        parameters: How many it has.
    """

    entry: dict
    bf16: bool
    step_seconds: dict[str, float]
    flops_a_row: float
    parameters: int


@dataclass(frozen=True)
class Scored:
    """How a student answers the rows that are scored.

    Attributes:
        same: For each row, the share of the groupings in which it has the original's label (all its labels, of tokens).
        counts: What each row adds to the metric's counts, (rows, K), the mean over groupings.
        scores: The score in each grouping.
        agreements: The share of rows with the original's label in each grouping.
    """

    same: np.ndarray
    counts: np.ndarray
    scores: list[float]
    agreements: list[float]


class CurveModels(TaskModels):
    """Makes students, the batches that they learn from, and scores.

    Args:
        options: See `fastmux.training.curves.CurveOptions`.
        folder, task: See `TaskModels`.

    Raises:
        ValueError: Bad data, or fewer rows than a step has.
    """

    def __init__(self, options, folder: Path, task: Task):
        super().__init__(options, folder, task)
        self.task_rows = len(self.rows)
        scored = set(map(tuple, self.evaluation["input_ids"]))
        texts = [self._unlabelled(Path(file), scored) for file in options.text]
        self.rows = concatenate_datasets([self.rows, *texts]) if texts else self.rows
        self.lengths = np.asarray(self.rows["length"])
        Order(self.lengths, options.per_device_train_batch_size)  # raises what is wrong
        self.first_steps, self.first = options.first_rows // options.per_device_train_batch_size, None
        if options.first_text:
            self.first = concatenate_datasets([self._unlabelled(Path(file), scored) for file in options.first_text])
            Order(np.asarray(self.first["length"]), options.per_device_train_batch_size)
        self.measurement = Measurement(self.evaluation, self.metric, task.metric, options)

    def counts(self) -> dict[str, int]:
        found = {"train": self.task_rows, "further text": len(self.rows) - self.task_rows}
        if self.first is not None:
            found["first text"] = len(self.first)
        return {name: rows for name, rows in found.items() if rows} | {"evaluation": len(self.evaluation)}

    def _unlabelled(self, path: Path, scored: set[tuple[int, ...]]) -> Dataset:
        """The rows of a file without labels, but for those that are scored."""
        options = self.options
        columns = options.column, options.pair_column
        if columns == (None, None) and path.is_file() and set(_PAIR) <= set(column_names(open_source(path))):
            columns = _PAIR
        rows = tokenize(read_texts([path], *columns), self.tokenizer, options.max_length)
        keep = [k for k, ids in enumerate(rows["input_ids"]) if tuple(ids) not in scored]
        return rows.select(keep).select_columns(self.rows.column_names).cast(self.rows.features)

    @cached_property
    def engine(self) -> Engine:
        """The original's."""
        return engine_of(self.original, self.tokenizer)

    @cached_property
    def truth(self) -> np.ndarray:
        """The original's logits for the rows that are scored."""
        return self.engine.run(self.measurement.tokens).logits

    @cached_property
    def constant(self) -> float:
        """The share of the rows that are scored in which one answer to all agrees with the original."""
        lengths = self.measurement.tokens.lengths if self.engine.runtime.per_token else None
        problem = self.engine.runtime.problem_type
        if problem == "multi_label_classification":
            answers = np.unique(self.truth > 0, axis=0) - 0.5
        else:
            answers = np.eye(self.truth.shape[-1])
        given = (np.broadcast_to(own, self.truth.shape) for own in answers)
        return max(float(agrees(own, self.truth, problem, lengths).mean()) for own in given)

    def learner(self, candidate: Candidate, seed: int, bf16: bool) -> Learner:
        """The candidate before its first step."""
        student = self.untrained(candidate, seed)
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as `fastmux.distillation.distil.distil` has it, for the same reason
        if student.config.hidden_size == self.teacher.states.shape[1]:
            student.get_input_embeddings().requires_grad_(False)
        size, before = self.options.per_device_train_batch_size, self.first_steps
        order = Order(self.lengths, size, seed)
        first = None if self.first is None else Order(np.asarray(self.first["length"]), size, seed)

        def batch(step: int) -> dict[str, Tensor]:
            if first is not None and step < before:
                found = self._batch(first.rows(step), self.first, self._collate_first)
                return {name: t for name, t in found.items() if name != "teacher_logits"}
            return self._batch(order.rows(step - before), self.rows, self._collate)

        return Learner(student, batch, self._loss(student, candidate), seed, bf16)

    def _batch(self, places: np.ndarray, rows: Dataset, collate: TeacherCollator) -> dict[str, Tensor]:
        columns = rows[places.tolist()]
        features = [dict(zip([*columns, ROW], own, strict=True)) for own in zip(*columns.values(), places, strict=True)]
        return {name: t.to(self.original.device) for name, t in collate(features).items()}

    @cached_property
    def _collate(self) -> TeacherCollator:
        return TeacherCollator(self.tokenizer, self.teacher)

    @cached_property
    def _collate_first(self) -> TeacherCollator:
        """With the original's states of the first text, at every position."""
        given = (self.original, self.tokenizer, self.first, self.folder / _TEACHER_FIRST)
        teacher = compute_teacher_outputs(*given, fingerprint=self.fingerprint(self.first), first_only=False)
        return TeacherCollator(self.tokenizer, teacher)

    def check_teacher(self) -> None:
        """Raise ValueError if the folder holds what another original says, or of other rows."""
        for name, rows in ((TEACHER, self.rows), (_TEACHER_FIRST, self.first)):
            record = self.folder / name / "teacher.json"
            if record.is_file() and (rows is None or read_json(record)["fingerprint"] != self.fingerprint(rows)):
                raise ValueError(
                    f"{record.parent} is of another original, or of other rows: --encoder, --original, --data_dir, "
                    "--text and --first_text must lead to what they led to. Give another --output_dir"
                )

    @cached_property
    def _first_variance(self) -> float:
        return variance_of(self._collate_first.teacher.states)

    @cached_property
    def _variance(self) -> float:
        return variance_of(self.teacher.states)

    def _loss(self, student: PreTrainedModel, candidate: Candidate) -> Callable[[nn.Module, dict], Tensor]:
        same_width = student.config.hidden_size == self.teacher.states.shape[1]
        weight = self.settings.state_weight if candidate.state_weight is None else candidate.state_weight
        terms = {"problem": PROBLEMS[problem_of(student)], "state_variance": self._variance}
        terms["state_weight"] = weight if same_width else 0.0

        def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            inputs = {name: t for name, t in batch.items() if not name.startswith("teacher")}
            if "teacher_logits" not in batch:  # of the first text
                states, own = states_everywhere(model, inputs), {"state_variance": self._first_variance}
                wanted = batch["teacher_states"], None, None
                return distillation_loss(
                    states, *wanted, inputs["attention_mask"], **{**terms, **own, "state_weight": 1.0}
                )
            states, logits = states_and_logits(model, inputs)
            wanted = batch["teacher_states"], logits, batch["teacher_logits"]
            return distillation_loss(states, *wanted, inputs.get("attention_mask"), **terms)

        return loss

    def student(self, candidate: Candidate) -> Student:
        """What is known of a candidate: measured the first time that it is asked for."""
        path = self.place(candidate.name) / "student.json"
        if not path.is_file():
            write_json(path, asdict(self._measured(candidate)))
        return Student(**read_json(path))

    def place(self, name: str, seed: int | None = None) -> Path:
        """The folder of a student, or of one of its seeds."""
        folder = self.folder / "students" / name
        return folder if seed is None else folder / f"seed-{seed}"

    def _measured(self, candidate: Candidate) -> Student:
        learner = self.learner(candidate, self.options.seed, False)
        student, batch = learner.model, self.options.per_device_train_batch_size
        middle = np.argsort(self.lengths, kind="stable")[(len(self.lengths) - batch) // 2 :][:batch]
        given = (student, self.rows.select(middle), self._collate, self.teacher, batch)
        taken = {name: step_seconds(*given, bf16=name == "bf16") for name in ("float32", "bf16")}
        chosen = self.options.precision
        quicker = taken["bf16"] < QUICKER * taken["float32"]
        with FlopCounterMode(display=False) as counter:
            learner.loss(student, self._batch(middle, self.rows, self._collate)).backward()
        return Student(
            entry=self.entry(candidate),
            bf16=quicker if chosen == "auto" else chosen == "bf16",
            step_seconds=taken,
            flops_a_row=counter.get_total_flops() / batch,
            parameters=sum(p.numel() for p in student.parameters()),
        )

    def score(self, student: PreTrainedModel) -> Scored:
        """Scores a student in float32, in several groupings if its answers depend on the rows of a group."""
        measure, original = self.measurement, self.engine
        engine = engine_of(student.eval(), self.tokenizer)
        answers = answers_in_groups(engine, measure.tokens, self.options.groupings, self.options.seed)
        lengths = measure.tokens.lengths if original.runtime.per_token else None
        problem = original.runtime.problem_type
        same = np.stack([agrees(found.logits, self.truth, problem, lengths) for found in answers])
        counts = [measure.counts_of(original, own.logits) for own in answers]
        scores = [measure.score_of(own) for own in counts]
        return Scored(same.mean(0), np.mean(counts, 0), scores, same.mean(1).tolist())

    def speeds(self, candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
        """The speeds of the original and of all students, in turns; see `fastmux.training.fronts.measure.speeds`."""
        made = {
            own.name: engine_of(self.untrained(own, self.options.seed).eval(), self.tokenizer) for own in candidates
        }
        timed = self.measurement.timed
        calls = {name: partial(engine.run, timed) for name, engine in {ORIGINAL: self.engine, **made}.items()}
        forward = partial(plain_forward, self.original, self.tokenizer, timed)
        return speeds(calls, forward, len(timed.lengths), self.options.clock)
