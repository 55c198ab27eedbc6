"""What ``front.py``, ``embeddings.py`` and ``curves.py`` share: arguments, a folder that is gone on with, and what they
write."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import datasets
import transformers
from transformers import HfArgumentParser

from fastmux.files import read_json, write_json
from fastmux.passes.timer import CLOCKS
from fastmux.settings import integer, number, one_of
from fastmux.training.folders import SETTINGS, check_folder
from fastmux.training.fronts.candidates import USUAL
from fastmux.training.programs import environment, finish
from fastmux.training.settings import check, documented
from fastmux.training.tasks import TASKS

#: Where things lie on this machine is nobody else's concern.
_PLACES = ("data_dir", "encoder", "original", "candidates", "output_dir", "static", "text", "first_text")
#: Arguments of all programs that may differ when models are measured anew.
_MEASURING = ("clock", "candidates", "output_dir", "data_dir", "max_rate_rows")
#: The file with digests of rows.
_DATA = "data.json"

T = TypeVar("T")


@documented()
@dataclass
class CommonSettings:
    """The arguments of all of them.

    Attributes:
        encoder: The encoder: a hub name or a folder.
        data_dir: Folder with the task's files, as for train.py; without it, the hub's.
        candidates: Name of a file in training/fronts, or a YAML file. Default: that of the task's kind.
        output_dir: Folder to write. Default: one below runs.
        learning_rate: The distilled models' peak learning rate.
        per_device_train_batch_size: Rows of a step.
        max_length: Tokens of a row that is learnt from; longer ones are cut.
        max_train_rows: Train on so many rows, drawn at random. Default: all.
        max_rate_rows: Measure speed on so many of the rows that are scored.
        clock: Of speed: wall; or cpu, the time that the process had, for a machine with other work to do.
        seed: Of everything that is drawn.
    """

    encoder: str
    data_dir: str | None = None
    candidates: str | None = None
    output_dir: str | None = None
    learning_rate: float = number(0.0003, above=True)
    per_device_train_batch_size: int = integer(64, 1)
    max_length: int = integer(128, 1)
    max_train_rows: int | None = integer(None, 1)
    max_rate_rows: int = integer(400, 1)
    clock: str = one_of("wall", tuple(CLOCKS))
    seed: int = 0


@documented()
@dataclass
class FrontSettings(CommonSettings):
    """The arguments of ``front.py`` and ``embeddings.py``.

    Attributes:
        num_train_epochs: Passes over the rows, of the distilled models.
        bf16: Train under bfloat16 autocast, quicker on some processors, too. All is measured in float32.
    """

    num_train_epochs: float = number(1.0, above=True)
    bf16: bool = False


@documented()
@dataclass
class TaskSettings(CommonSettings):
    """The arguments of programs on a task with labels: ``front.py`` and ``curves.py``.

    Attributes:
        task: What to train on and score.
        original: A folder: --encoder, trained on the task already. Default: it is trained here.
        split: What to score. Default: the task's last evaluation split.
        original_epochs: Passes over the labelled rows, of the original and of those trained alone.
        original_learning_rate: Their peak learning rate.
        max_evaluation_rows: Score on so many rows, drawn at random. Default: all.
        groupings: Random groupings over which multiplexed models are scored.
    """

    task: str = one_of("sst2", tuple(name for name, task in TASKS.items() if task.files and task.kind in USUAL))
    original: str | None = None
    split: str | None = None
    original_epochs: float = number(1.0, above=True)
    original_learning_rate: float = number(0.0001, above=True)
    max_evaluation_rows: int | None = integer(None, 1)
    groupings: int = integer(5, 1)


def parse(kind: type[T], description: str | None, argv: list[str] | None) -> T:
    """Parses and checks a command line; None stands for the program's own.

    Raises:
        ValueError: an argument is out of range.
    """
    usage, shown = f"{Path(sys.argv[0]).name} --encoder NAME [argument ...]", argparse.RawDescriptionHelpFormatter
    parser = HfArgumentParser(kind, usage=usage, description=description, formatter_class=shown)
    (options,) = parser.parse_args_into_dataclasses(argv)
    check(options, "--")
    return options


class FrontFolder:
    """The folder of a program; one that was begun with the same settings goes on.

    Args:
        options: The program's arguments.
        name: The folder's name below runs, if none was given.
        measuring: Further arguments that may differ when models are measured anew.

    Raises:
        ValueError: It holds something else.
    """

    def __init__(self, options: CommonSettings, name: str, measuring: Collection[str]):
        self.options, self.started = options, time.perf_counter()
        self.path = Path(options.output_dir or f"runs/{name}")
        self.identity = {k: v for k, v in asdict(options).items() if k not in (*_MEASURING, *measuring)}
        check_folder(self.path, self.identity)
        # The Trainer's bars stay.
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()

    def begin(self, digests: dict[str, str] | None = None) -> None:
        """Write the settings, once all input is known to be good.

        Args:
            digests: Of the rows that the folder's models depend on.

        Raises:
            ValueError: The folder was begun with other rows.
        """
        digests, data = digests or {}, self.path / _DATA
        before = read_json(data) if data.is_file() else digests
        if other := [name for name, digest in digests.items() if before.get(name, digest) != digest]:
            raise ValueError(f"--output_dir {self.path} holds work of other {other[0]} rows. Give another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / SETTINGS, self.identity)
        if digests:
            write_json(data, digests)

    def write(self, stem: str, found: dict, section: Callable[[dict], Iterator[str]]) -> dict:
        """Write ``STEM.json`` with what was found, print its section, and return the file's content."""
        result = self.content(found)
        finish(result, section, self.path / f"{stem}.json", ", pictures, and a folder for each model")
        return result

    def content(self, found: dict) -> dict:
        """What was found, behind the machine and the arguments, and before the seconds of this process."""
        settings = {k: _named(v) if k in _PLACES and v else v for k, v in asdict(self.options).items()}
        seconds = round(time.perf_counter() - self.started, 1)
        return {"environment": environment(), "settings": settings, **found, "seconds": seconds}


def _named(path: str | list[str]) -> str:
    """The names of files, without their folders."""
    return " ".join(Path(one).name for one in ([path] if isinstance(path, str) else path))
