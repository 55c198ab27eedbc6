"""Measure, in one run, accuracy against instances a second of

  - a pretrained encoder, trained on a task: the original;
  - what one would use in place of a T-MUX: encoders of fewer layers or less width, distilled from the original or
    trained alone, and int8;
  - T-MUX models that were distilled from the original, without labels;
  - cascades of each with the original, at a given agreement with it;

and say which of them are on the front: as good and as fast as none other. What is compared is a file, one entry a
candidate: training/fronts/sequence.yaml, training/fronts/token.yaml, or your own. Every candidate learns from the same
rows in as many steps. Speed is that of the engine that runs fastmux.predict, at real lengths, all models in turns; it
is given over the original through the same engine, and over the original as Hugging Face alone runs it.
training/fronts/levers.yaml holds what was tried to make multiplexed models better. Started again with the same
arguments, the program keeps finished models and measures them anew.

examples:
  python training/front.py --task sst2 --data_dir DIR --encoder sentence-transformers/all-MiniLM-L6-v2
  python training/front.py --task sst2 --data_dir DIR --encoder bert-base-uncased --candidates my.yaml
  python training/front.py --task qnli --encoder MINILM --max_train_rows 20000 --max_evaluation_rows 2000
"""

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
from fastmux.files import write_json
from fastmux.models.loading import read_pretrained
from fastmux.passes.timer import CLOCKS
from fastmux.settings import integer, number, one_of
from fastmux.training.folders import SETTINGS, check_folder
from fastmux.training.formatting import for_terminal
from fastmux.training.fronts.candidates import has_candidates, read_candidates
from fastmux.training.fronts.models import FrontModels
from fastmux.training.fronts.verdict import plot, sentence, table
from fastmux.training.run_result import environment
from fastmux.training.settings import check, documented, run_program
from fastmux.training.tasks import TASKS


@documented()
@dataclass
class FrontOptions:
    """The program's arguments.

    Attributes:
        task: What to train on and score.
        data_dir: Folder with the task's files, as for train.py; without it, the hub's.
        encoder: The pretrained encoder, with its tokenizer: a hub name or a folder. Required.
        original: A folder: --encoder, trained on the task already. Default: it is trained here.
        candidates: Name of a file in training/fronts, or a YAML file. Default: the task's kind.
        output_dir: Folder to write. Default: runs/front-TASK.
        split: What to score. Default: the task's last evaluation split.
        original_epochs: Passes over the labelled rows, of the original and of those trained alone.
        original_learning_rate: Their peak learning rate.
        num_train_epochs: Passes over the rows, of the distilled models.
        learning_rate: Their peak learning rate.
        per_device_train_batch_size: Rows of a step.
        max_length: Tokens of a row; longer ones are cut.
        max_train_rows: Train on so many rows, drawn at random. Default: all.
        max_evaluation_rows: Score on so many rows, drawn at random. Default: all.
        max_rate_rows: Measure speed on so many of them.
        clock: Of speed: wall; or cpu, the time that the process had, for a machine with other work to do.
        groupings: Random groupings over which multiplexed models are scored.
        target_agreement: Of a cascade with the original.
        bf16: Train under bfloat16 autocast, quicker on some processors, too. All is measured in float32.
        seed: Of everything that is drawn.
        seeds: Distil each model with so many seeds, and score their mean.
    """

    task: str = one_of("sst2", tuple(name for name, task in TASKS.items() if task.files and has_candidates(task.kind)))
    data_dir: str | None = None
    encoder: str | None = None
    original: str | None = None
    candidates: str | None = None
    output_dir: str | None = None
    split: str | None = None
    original_epochs: float = number(1.0, above=True)
    original_learning_rate: float = number(0.0001, above=True)
    num_train_epochs: float = number(1.0, above=True)
    learning_rate: float = number(0.0003, above=True)
    per_device_train_batch_size: int = integer(64, 1)
    max_length: int = 128
    max_train_rows: int | None = integer(None, 1)
    max_evaluation_rows: int | None = integer(None, 1)
    max_rate_rows: int = integer(400, 1)
    clock: str = one_of("wall", tuple(CLOCKS))
    groupings: int = integer(5, 1)
    target_agreement: float = number(0.99, 0, 1, above=True)
    bf16: bool = False
    seed: int = 0
    seeds: int = integer(1, 1)


def parse(argv: list[str] | None = None) -> FrontOptions:
    """Parses and checks a command line; None stands for the program's own.

    Raises:
        ValueError: an argument is missing or out of range.
    """
    usage, shown = "front.py --task TASK --encoder NAME [argument ...]", argparse.RawDescriptionHelpFormatter
    parser = HfArgumentParser(FrontOptions, usage=usage, description=__doc__, formatter_class=shown)
    (options,) = parser.parse_args_into_dataclasses(argv)
    if options.encoder is None:
        raise ValueError("--encoder is missing: a hub name, or the folder of a pretrained encoder with its tokenizer")
    check(options, "--")
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
    identity = {k: v for k, v in asdict(options).items() if k not in _MEASURING.split()}
    check_folder(folder, identity)
    shared = ("max_length", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "seed")
    settings = ConversionSettings(**{name: getattr(options, name) for name in shared})
    models = FrontModels(options, task, folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, identity)
    contestants = models.contestants(candidates)
    points = models.measure(contestants)
    result = {
        "task": task.name,
        "metric": task.metric,
        "environment": environment(),
        "settings": {k: Path(v).name if k in _PLACES and v else v for k, v in asdict(options).items()},
        "rows": models.counts(),
        "entries": [asdict(point) for point in points],
        "table": table(points, task.metric),
        "sentence": sentence(points),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "front.json", result)
    plot(folder / "front.png", points, f"{task.name}, {models.counts()['evaluation']} rows", task.metric)
    print(f"\n{for_terminal(result['table'])}\n\n{result['sentence']}")
    print(f"\nwritten: {folder}/front.json, front.png, and a folder for each model")
    return result


#: Where things lie on this machine is nobody else's concern.
_PLACES = ("data_dir", "encoder", "original", "candidates", "output_dir")
#: Arguments that may differ when models are measured anew.
_MEASURING = (
    "clock candidates output_dir data_dir max_rate_rows max_evaluation_rows groupings target_agreement split seeds"
)


if __name__ == "__main__":
    run_program(main)
