"""Measures where multiplexing pays: accuracy against speed, beside what one would use in its place; ``--help``
explains."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import datasets
import transformers
from transformers import HfArgumentParser

from fastmux.distillation.settings import ConversionSettings
from fastmux.files import changes, read_json, write_json
from fastmux.models.loading import read_pretrained
from training.arguments import option
from training.fronts.candidates import has_candidates, read_candidates
from training.fronts.measure import CLOCKS
from training.fronts.models import FrontModels
from training.fronts.report import plot, sentence, table
from training.results import environment
from training.tasks import TASKS

DESCRIPTION = """\
Measure, in one run, accuracy against instances a second of

  - a pretrained encoder, trained on a task: the original;
  - what one would use in place of a T-MUX: encoders of fewer layers or less width, distilled from the original or
    trained alone, and int8;
  - T-MUX models that were distilled from the original, without labels;
  - cascades of each with the original, at a given agreement with it;

and say which of them are on the front: as good and as fast as none other. What is compared is a file, one entry a
candidate: training/fronts/sequence.yaml, training/fronts/token.yaml, or your own. Every candidate learns from the same
rows in as many steps. Speed is that of real lengths, rows of like length together, each model at its best batch size,
all of them in turns. training/fronts/levers.yaml holds what was tried to make multiplexed models better. Started again
with the same arguments, finished models are kept, and measured anew."""

EPILOG = """\
examples:
  python training/front.py --task sst2 --data_dir DIR --encoder sentence-transformers/all-MiniLM-L6-v2
  python training/front.py --task sst2 --data_dir DIR --encoder bert-base-uncased --candidates my.yaml
  python training/front.py --task qnli --encoder MINILM --max_train_rows 20000 --max_evaluation_rows 2000"""


@dataclass
class FrontOptions:
    """The program's arguments."""

    task: str = option(
        "What to train on and score.",
        "sst2",
        choices=[name for name, task in TASKS.items() if task.files and has_candidates(task.kind)],
    )
    data_dir: str | None = option("Folder with the task's files, as for train.py; without it, the hub's.")
    encoder: str | None = option("The pretrained encoder, with its tokenizer: a hub name or a folder. Required.")
    original: str | None = option("A folder: --encoder, trained on the task already. Default: it is trained here.")
    candidates: str | None = option("Name of a file in training/fronts, or a YAML file. Default: the task's kind.")
    output_dir: str | None = option("Folder to write. Default: runs/front-TASK.")
    split: str | None = option("What to score. Default: the task's last evaluation split.")
    original_epochs: float = option("Passes over the labelled rows, of the original and of those trained alone.", 1.0)
    original_learning_rate: float = option("Their peak learning rate.", 1e-4)
    num_train_epochs: float = option("Passes over the rows, of the distilled models.", 1.0)
    learning_rate: float = option("Their peak learning rate.", 3e-4)
    per_device_train_batch_size: int = option("Rows of a step.", 64)
    max_length: int = option("Tokens of a row; longer ones are cut.", 128)
    max_train_rows: int | None = option("Train on so many rows, drawn at random. Default: all.")
    max_evaluation_rows: int | None = option("Score on so many rows, drawn at random. Default: all.")
    max_rate_rows: int = option("Measure speed on so many of them.", 400)
    clock: str = option(
        "Of speed: wall; or cpu, the time that the process had, for a machine with other work to do.",
        "wall",
        choices=list(CLOCKS),
    )
    groupings: int = option("Random groupings over which multiplexed models are scored.", 5)
    target_agreement: float = option("Of a cascade with the original.", 0.99)
    bf16: bool = option(
        "Train under bfloat16 autocast, quicker on some processors, too. All is measured in float32.",
        False,
    )
    seed: int = option("Of everything that is drawn.", 0)
    seeds: int = option("Distil each model with so many seeds, and score their mean.", 1)


def parse(argv: list[str] | None = None) -> FrontOptions:
    """Parses and checks a command line; None stands for the program's own.

    Raises:
        ValueError: an argument is missing or out of range.
    """
    parser = HfArgumentParser(
        FrontOptions,
        usage="front.py --task TASK --encoder NAME [argument ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    (options,) = parser.parse_args_into_dataclasses(argv)
    if options.encoder is None:
        raise ValueError("--encoder is missing: a hub name, or the folder of a pretrained encoder with its tokenizer")
    counts = ("groupings", "seeds", "per_device_train_batch_size", "max_rate_rows", "max_train_rows")
    for name in (*counts, "max_evaluation_rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    for name in ("original_epochs", "num_train_epochs", "original_learning_rate", "learning_rate"):
        if getattr(options, name) <= 0:
            raise ValueError(f"--{name} must be above 0, got {getattr(options, name)}")
    if not 0 < options.target_agreement <= 1:
        raise ValueError(f"--target_agreement must be in (0, 1], got {options.target_agreement}")
    return options


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``front.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    started = time.perf_counter()
    options = parse(argv)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    task = TASKS[options.task]()
    encoder = read_pretrained(transformers.AutoConfig, options.encoder, "--encoder")
    candidates = read_candidates(options.candidates or task.kind, encoder.num_hidden_layers)
    folder = Path(options.output_dir or f"runs/front-{options.task}")
    identity = {k: v for k, v in asdict(options).items() if k not in _MEASURING}
    _check_folder(folder, identity)
    settings = ConversionSettings(
        max_length=options.max_length,
        num_train_epochs=options.num_train_epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.per_device_train_batch_size,
        seed=options.seed,
    )
    models = FrontModels(options, task, folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS, identity)
    contestants = models.contestants(candidates)
    entries = models.measure(contestants)
    result = {
        "task": task.name,
        "metric": task.metric,
        "environment": environment(),
        "settings": {k: Path(v).name if k in _PLACES and v else v for k, v in asdict(options).items()},
        "rows": models.counts(),
        "entries": [asdict(entry) for entry in entries],
        "table": table(entries, task.metric),
        "sentence": sentence(entries),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "front.json", result)
    plot(folder / "front.png", entries, f"{task.name}, {models.counts()['evaluation']} rows", task.metric)
    print(f"\n{result['table']}\n\n{result['sentence']}")
    print(f"\nwritten: {folder}/front.json, front.png, and a folder for each model")
    return result


_SETTINGS = "settings.json"
#: Where things lie on this machine is nobody else's concern.
_PLACES = ("data_dir", "encoder", "original", "candidates", "output_dir")
#: Arguments that may differ when models are measured anew.
_MEASURING = (
    "clock",
    "candidates",
    "output_dir",
    "data_dir",
    "max_rate_rows",
    "max_evaluation_rows",
    "groupings",
    "target_agreement",
    "split",
    "seeds",
)


def _check_folder(folder: Path, identity: dict) -> None:
    """Raises ValueError for a folder that holds anything but a run with the same arguments."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / _SETTINGS).is_file():
        raise ValueError(f"--output_dir {folder} holds something else; give a new folder")
    if changed := changes(read_json(folder / _SETTINGS), identity):
        raise ValueError(f"--output_dir {folder} holds a run with other arguments: {changed}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
