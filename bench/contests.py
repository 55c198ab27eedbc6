"""What benchmarks of a trained classifier share: how it and its rows are named, the answers that students learn, and
the times of the parts of a pass."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from bench.machine import CPU, machine_info, results_folder
from fastmux.distillation.distil import distil, distillation_arguments
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import TeacherOutputs, compute_teacher_outputs, padded
from fastmux.distillation.texts import read_texts
from fastmux.files import write_json
from fastmux.joins import BERT_LIKE
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.tokenized_model import room_of
from fastmux.models.problems import Regression
from fastmux.passes.timer import rates
from fastmux.searching.levers import Source
from fastmux.searching.rows import SearchRows
from fastmux.training.programs import finish, options_of, positive

#: Rows on which the times of layers are measured, in passes of so many.
_TIMED, _PASS = 192, 32
_EXPECTED = "MODEL=ROWS:COLUMN[,COLUMN]"


class Contest:
    """Students of one original: what they learn, from which rows.

    Args:
        classifier: The original.
        rows: What is learnt from, chosen by and reported on.
        options: The program's: ``steps``, ``batch`` and ``bf16``.
        folder: For what is under way.
    """

    #: Whether the students' states are those of the first position alone.
    first_only = True

    def __init__(self, classifier: Classifier, rows: SearchRows, options: argparse.Namespace, folder: Path):
        self.original, self.tokenizer = classifier.model.eval(), classifier.tokenizer
        self.rows, self.options, self.folder = rows, options, folder
        self.layers = self.original.config.num_hidden_layers
        self.learning = rows.dataset(rows.learning[: options.steps * options.batch])
        self.source = Source(self.original, self.learning, self.tokenizer)
        given = (self.original, self.tokenizer, self.learning, folder / "teacher")
        self.teacher: TeacherOutputs = compute_teacher_outputs(*given, fingerprint="", first_only=self.first_only)

    @classmethod
    def check(cls, name: str, classifier: Classifier, options: argparse.Namespace) -> None:
        """Raise ValueError for an original that has no such students.

        Args:
            name: What it was asked for by.
            classifier: The original.
            options: The program's.
        """
        kind = classifier.model.config.model_type
        if kind not in BERT_LIKE or classifier.per_token or classifier.problem_type == Regression.name:
            raise ValueError(
                f"{name} is a {type(classifier.model).__name__}, expected a classifier of rows like BERT's"
            )
        if options.max_length > (room := room_of(classifier.model)):
            raise ValueError(f"--max_length is {options.max_length}, but {name} has room for {room} tokens")

    def learnt(self, name: str, model: PreTrainedModel, **arguments) -> PreTrainedModel:
        """The model, once it learnt the original's answers.

        Args:
            name: Of a folder for what is under way.
            model: The student, which learns.
            arguments: Further ones of `transformers.TrainingArguments`.
        """
        settings = ConversionSettings(per_device_train_batch_size=self.options.batch)
        given = {"max_steps": self.options.steps, "bf16": self.options.bf16, "save_strategy": "no"}
        given |= {"disable_tqdm": True, "logging_strategy": "no", **arguments}
        made = distillation_arguments(self.folder / name, settings, given)
        return distil(model, self.tokenizer, self.learning, self.teacher, made)[0]

    def __call__(self) -> dict:
        """Runs the contest; returns what it found."""
        raise NotImplementedError

    @torch.no_grad()
    def seconds(self, further: Mapping[str, Callable]) -> dict[str, float]:
        """How long ``embeddings``, a ``layer`` and further parts of a pass take, for a row: one thread of processor
        time, in turns.

        Args:
            further: Calls with a batch's inputs, its embeddings (B, L, d) and which positions are no padding, (B, L).
        """
        rows, bert = self.learning.select(range(min(_TIMED, len(self.learning)))), self.original.base_model
        order = np.argsort(rows["length"])
        work = []
        for begin in range(0, len(order), _PASS):
            inputs = padded(rows, order[begin : begin + _PASS], self.tokenizer)
            keep = inputs.pop("attention_mask") != 0
            work.append((inputs, bert.embeddings(**inputs), keep))
        parts: dict[str, Callable] = {
            "embeddings": lambda inputs, states, keep: bert.embeddings(**inputs),
            "layer": lambda inputs, states, keep: bert.encoder.layer[0](states, keep[:, None, None]),
            **further,
        }
        calls = {name: partial(_all, part, work) for name, part in parts.items()}
        return {name: 1 / rate.rows_per_second for name, rate in rates(calls, len(rows), clock="cpu").items()}


def _all(part: Callable, work: list[tuple]) -> None:
    for given in work:
        part(*given)


def contest_options(description: str | None, batch: int) -> argparse.ArgumentParser:
    """The options of a contest's program: classifiers with their rows, and how long students learn."""
    parser = options_of(description)
    parser.add_argument("models", nargs="+", metavar=_EXPECTED, help="A classifier, and its rows.")
    parser.add_argument("--steps", type=positive, default=100, help="Optimiser steps of each model.")
    parser.add_argument("--batch", type=positive, default=batch, help="Rows of a step.")
    parser.add_argument("--max_rows", type=positive, default=8000, help="Rows of a table that are read.")
    parser.add_argument("--max_length", type=positive, default=128, help="Tokens of a row; longer ones are cut.")
    parser.add_argument("--bf16", action="store_true", help="Train under bfloat16 autocast.")
    return parser


def run_contests(
    kind: type[Contest],
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    section: Callable[[dict], Iterator[str]],
    *,
    key: str,
    file: str,
) -> list[dict]:
    """Runs a contest for each classifier, and writes what they found.

    Args:
        kind: A `Contest`, which is called for what it found.
        parser: From `contest_options`.
        argv: The arguments of the program.
        section: Says the result.
        key: The name of what was found, in the result.
        file: The name of the file of results, where none is asked for.

    Returns:
        What each found, with its ``task``.
    """
    args = parser.parse_args(argv)
    output = args.output or results_folder(CPU) / file
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    asked = [(model, *rest.rpartition(":")[::2]) for model, _, rest in (one.partition("=") for one in args.models)]
    if missing := [path for *paths, _ in asked for path in paths if not Path(path or ".").exists()]:
        parser.error(f"{missing[0]} is not there; expected {_EXPECTED}")
    if wrong := [columns for *_, columns in asked if not 1 <= len(list(filter(None, columns.split(",")))) <= 2]:
        parser.error(f"the columns are {wrong[0]!r}; expected {_EXPECTED}")
    read = []
    for model, table, columns in asked:
        classifier = Classifier.of(model, None)
        kind.check(model, classifier, args)
        texts = read_texts([table], *columns.split(","))[: args.max_rows]
        read.append((Path(table), classifier, SearchRows.of(texts, None, classifier, args.max_length, 0)))
    options = {name: value for name, value in vars(args).items() if name not in ("models", "output")}
    found: list[dict] = []
    result = {"machine": machine_info(CPU), "options": options, key: found}
    for table, classifier, rows in read:
        with tempfile.TemporaryDirectory() as folder:
            found.append({"task": table.name.split(".")[0], **kind(classifier, rows, args, Path(folder))()})
        write_json(output, result)  # also of what is interrupted later
    finish(result, section, output)
    return found
