"""The models of a front of a task with labels."""

from __future__ import annotations

import copy
import hashlib
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from fastmux.configuration import TMuxConfig
from fastmux.distillation.speed import engine_of, plain_forward, tokens_of
from fastmux.files import read_json, write_json
from fastmux.labelling.majority import majority_share
from fastmux.models.loading import read_pretrained
from fastmux.training.encoders import read_encoder
from fastmux.training.features import encode_rows
from fastmux.training.fronts.candidates import ORIGINAL, Candidate
from fastmux.training.fronts.measure import Contestant, Measurement, Point
from fastmux.training.fronts.models import SECONDS, Models
from fastmux.training.fronts.winners import winners
from fastmux.training.metrics import scores_of
from fastmux.training.models import head_class, label_options
from fastmux.training.stages import Stage
from fastmux.training.tasks.base import Task

#: Of the rows that are scored, so many show whether an original tells rows apart at all.
_SOME_ROWS = 1000


class TaskModels(Models):
    """Trains what is not there yet, and measures.

    Args:
        options: See `fastmux.training.front.FrontOptions`.
        folder: See `Models`.
        task: The task to train on and to score.

    Raises:
        ValueError: Bad data, or a split that the task lacks.
    """

    def __init__(self, options, folder: Path, task: Task):
        super().__init__(options, folder)
        self.task, self.kind, self.first_only = task, task.kind, task.kind != "token"
        self.tokenizer, room = read_encoder(options.encoder)
        data = task.checked(options.data_dir)
        self.labels = data.labels
        self._given = None if options.original is None else self._read_original(options.original)
        split = options.split or list(data.evaluation)[-1]
        if split not in data.evaluation:
            raise ValueError(f"--split {split!r}: {task.name} has {', '.join(data.evaluation)}")
        self.train = self._rows(data.train, options.max_train_rows)
        self.evaluation = self._rows(data.evaluation[split], options.max_evaluation_rows)
        if (longest := max(max(rows["length"]) for rows in (self.train, self.evaluation))) > room:
            raise ValueError(
                f"--max_length is {options.max_length}, and a row has {longest} tokens, but {options.encoder} has room "
                f"for {room}"
            )
        self.metric = scores_of(task.kind, task.metric, self.labels, task.tag_scheme)
        names = ("input_ids", "attention_mask", "token_type_ids", "length")
        self.rows = self.train.select_columns([name for name in names if name in self.train.column_names])

    def counts(self) -> dict[str, int]:
        """Rows, by what they are for."""
        return {"train": len(self.train), "evaluation": len(self.evaluation)}

    def measure(self, contestants: dict[str, Contestant]) -> tuple[list[Point], list[dict]]:
        """The points, see `fastmux.training.fronts.measure.Measurement`, and what wins at each speed."""
        measure = Measurement(self.evaluation, self.metric, self.task.metric, self.options)
        points = measure(contestants, partial(plain_forward, self.original, self.tokenizer))
        return points, winners(points, measure.less)

    @cached_property
    def original(self) -> PreTrainedModel:
        """The encoder with its head, trained on the task's labels."""
        options = self.options
        if self._given is not None:
            found, advice = self._given, "give one that was trained on the task"
        else:
            print(f"== {ORIGINAL}", flush=True)
            found = self._labelled(ORIGINAL, lambda: copy.deepcopy(self._untrained), "AutoModel")
            advice = (
                f"train it in another folder with an --original_learning_rate below {options.original_learning_rate:g}"
            )
            advice += f", or with more --original_epochs than {options.original_epochs:g}"
        self._check_labels(found, advice)
        return found

    def _read_original(self, folder: str) -> PreTrainedModel:
        """The classifier of ``--original``.

        Raises:
            ValueError: It has no head of the task's kind, or another number of labels.
        """
        kind, name = head_class("AutoModel", self.kind), self.task.name
        model, info = read_pretrained(kind, folder, "--original", output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"--original {folder} has no {missing[0]}, expected --encoder with a head for {name}")
        if (own := model.config.num_labels) != len(self.labels):
            raise ValueError(f"--original {folder} has {own} labels, expected the {len(self.labels)} of {name}")
        return model.eval()

    def digests(self, *names: str) -> dict[str, str]:
        """Of the rows that are learnt from, ``train``, or scored, ``evaluation``: what models of a folder depend on."""
        found = {}
        for name in names:
            rows = getattr(self, name)
            values = np.concatenate([np.ravel(own) for column in ("input_ids", "labels") for own in rows[column]])
            found[name] = hashlib.sha256(values.astype(np.float64)).hexdigest()[:16]
        return found

    def _check_labels(self, original: PreTrainedModel, advice: str) -> None:
        """Raise ValueError if it gives all rows one label, as an encoder does whose training came to nothing."""
        runtime = (engine := engine_of(original, self.tokenizer)).runtime
        rows = self.evaluation.select(range(min(_SOME_ROWS, len(self.evaluation))))
        what = "words" if runtime.per_token else "rows"
        message = f"--original: it gives all {{}} {{}}; {advice}"
        majority_share(engine.run(tokens_of(rows)).logits, runtime.problem_type, list(self.labels), what, message)

    def load(self, folder: Path) -> PreTrainedModel:
        kind = read_json(folder / "config.json")["model_type"]
        return self._load("TMux" if kind == TMuxConfig.model_type else "Joined", folder)

    def _load(self, family: str, folder: str | Path) -> PreTrainedModel:
        return head_class(family, self.kind).from_pretrained(folder).eval()

    def save(self, student: PreTrainedModel, folder: Path) -> None:
        student.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @cached_property
    def _untrained(self) -> PreTrainedModel:
        set_seed(self.options.seed)
        head = head_class("AutoModel", self.kind)
        return head.from_pretrained(self.options.encoder, **label_options(self.labels, self.kind))

    def trained(self, candidate: Candidate) -> list[PreTrainedModel]:
        if candidate.folder is not None:
            return [self._load("AutoModel", candidate.folder)]
        if candidate.learn == "labels":
            return [self._labelled(candidate.name, lambda: candidate.make(self._untrained, self.kind), "Joined")]
        if candidate.learn == "copied":
            return [candidate.make(self.original, self.kind).eval()]
        first = self.options.seed
        return [self.student(candidate, seed) for seed in range(first, first + self.options.seeds)]

    def _labelled(self, name: str, make, family: str) -> PreTrainedModel:
        """A model that learns from labels."""
        options = self.options
        stage = Stage(
            folder=self.folder / name,
            arguments={
                "num_train_epochs": options.original_epochs,
                "learning_rate": options.original_learning_rate,
                "per_device_train_batch_size": options.per_device_train_batch_size,
                "train_sampling_strategy": "group_by_length",
                **self.precision,
                "seed": options.seed,
            },
            tokenizer=self.tokenizer,
            metrics=self.metric,
            per_position=self.kind == "token",
            train=self.train.remove_columns("length"),
            evaluation=self.evaluation,
        )
        result = stage.run(make)
        write_json(self.folder / name / SECONDS, result.seconds)
        return self._load(family, stage.model_dir)

    def _rows(self, split: Dataset, most: int | None) -> Dataset:
        if most is not None and most < len(split):
            order = np.random.default_rng(self.options.seed).permutation(len(split))
            split = split.select(np.sort(order[:most]))
        rows = encode_rows(self.kind, self.tokenizer, split, self.options.max_length)
        return rows.add_column("length", [len(ids) for ids in rows["input_ids"]])
