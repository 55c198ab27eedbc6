"""Measure how good students become with training: agreement with the original, and the score, over the rows learnt from

  - T-MUX students: multiplexed from the embeddings on, or in the joined layers;
  - plain students, cut and narrow, of the same speed, which is measured;

and say by a fitted law whether more training closes the gap between them. All learn without labels, from what the
original says of the task's rows and of further text, again and again: a row-update is a row in a step.

A student is trained once, as a trunk at a constant rate. At each of --points a branch leaves it, whose rate falls to 0
over a tenth of the row-updates so far, is scored and dropped: each point is what one has who stops there, and the whole
curve costs little more than its last point. Killed and started again, also elsewhere from a copy of the folder, the
program goes on to the same result; with later --points, and with more --seeds and --students, it goes on from where the
trunks are. What is compared is a file, one entry a student: training/fronts/curves.yaml, or your own.

examples:
  python training/curves.py --encoder MINILM --original TRAINED --task sst2 --data_dir DIR --points 1000 3000 10000
  python training/curves.py ... --students n2-unbind n2-rows narrow-quarter --points 1000 10000 100000 --seeds 0 1
  python training/curves.py ... --task mnli --text DIR/snli.tsv DIR/qqp.tsv --clock cpu
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from transformers import AutoConfig

from fastmux.files import write_json
from fastmux.models.loading import read_pretrained
from fastmux.settings import integer, number, one_of
from fastmux.training.fronts.candidates import Candidate, read_candidates
from fastmux.training.fronts.curve_models import CurveModels
from fastmux.training.fronts.curve_run import CurveRun
from fastmux.training.fronts.curve_verdict import section
from fastmux.training.fronts.growth import Stop
from fastmux.training.fronts.program import FrontFolder, TaskSettings, parse
from fastmux.training.programs import run_program
from fastmux.training.settings import documented
from fastmux.training.tasks import TASKS

#: Arguments of this program that may differ when a folder is gone on with.
_FURTHER = ("points", "seeds", "students", "save_seconds", "precision")
#: Files and folders, which may lie elsewhere on another machine: what they hold is compared.
_ELSEWHERE = ("encoder", "original", "text", "first_text")


@documented()
@dataclass
class CurveOptions(TaskSettings):
    """The program's arguments.

    Attributes:
        candidates: Name of a file in training/fronts, or a YAML file: the students.
        students: Those of them to train. Default: all.
        points: Row-updates after which a student is scored.
        seeds: Of the order of rows, of signs and of new weights: a trunk each.
        text: Further files of unlabelled text, as for fastmux.convert; rows that are scored are left out.
        first_text: Files of unlabelled text: the original's states of it, at all positions, are learnt before the task.
        first_rows: Row-updates of that text, which are among those of a point.
        column, pair_column: The columns of their text, and of the second text of a pair. Default: sentence1 and
            sentence2 where a file has both, else its column of text.
        per_device_train_batch_size: Rows of a step; every N must divide it.
        warm_up: Row-updates over which a trunk's rate rises to --learning_rate.
        precision: Of training: float32; bf16, bfloat16 autocast; or auto, for each student the quicker, as measured.
        save_seconds: How often the state of what is being trained is written.
    """

    candidates: str = "curves"
    students: list[str] = field(default_factory=list)
    points: list[int] = field(default_factory=lambda: [1000, 3000, 10_000, 30_000, 100_000])
    seeds: list[int] = field(default_factory=lambda: [0])
    text: list[str] = field(default_factory=list)
    first_text: list[str] = field(default_factory=list)
    first_rows: int = integer(0, 0)
    column: str | None = None
    pair_column: str | None = None
    per_device_train_batch_size: int = integer(60, 1)
    warm_up: int = integer(1200, 0)
    precision: str = one_of("auto", ("auto", "float32", "bf16"))
    save_seconds: float = number(300.0, 0)

    def __post_init__(self) -> None:
        self.points, self.seeds = sorted(set(self.points)), sorted(set(self.seeds))

    @property
    def bf16(self) -> bool:
        """How the original is trained, if it is."""
        return self.precision == "bf16"


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``curves.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    options = parse(CurveOptions, __doc__, argv)
    task = TASKS[options.task]()
    encoder = read_pretrained(AutoConfig, options.encoder, "--encoder")
    candidates = _chosen(options, read_candidates(options.candidates, encoder.num_hidden_layers))
    folder = FrontFolder(options, f"curves-{options.task}", (*_FURTHER, *_ELSEWHERE))
    models = CurveModels(options, folder.path, task)
    run = CurveRun(options, models, candidates)
    run.check()
    folder.begin(models.digests("train", "evaluation"))
    run.prepare()
    for stop in run.stops:
        run.measure(stop)
        found = run.found()
        options.points = with_earlier(options.points, found["curves"], options.per_device_train_batch_size)
        write_json(folder.path / "curves.json", folder.content(found))  # also of what is killed later
    return folder.write("curves", found, section)


def with_earlier(points: list[int], curves: list[dict], batch: int) -> list[int]:
    """The points that were asked for, and those of earlier calls: the command with these makes what the file has.

    Example:
        >>> from fastmux.training.curves import with_earlier
        >>> with_earlier([1000], [{"points": [{"row_updates": 1020}, {"row_updates": 3000}]}], batch=60)
        [1000, 3000]
    """
    asked = {Stop.at(n, batch).steps for n in points}
    reached = {point["row_updates"] for curve in curves for point in curve["points"]}
    return sorted({*points, *(n for n in reached if Stop.at(n, batch).steps not in asked)})


def _chosen(options: CurveOptions, candidates: list[Candidate]) -> list[Candidate]:
    """The students to train.

    Raises:
        ValueError: A student is not in the file, or is of a kind that has no curve; a point or the batch is none.
    """
    names = [candidate.name for candidate in candidates]
    if unknown := [name for name in options.students if name not in names]:
        raise ValueError(f"--students {unknown[0]!r}: {options.candidates} has {', '.join(names)}")
    chosen = [own for own in candidates if own.name in (options.students or names)]
    batch = options.per_device_train_batch_size
    if not options.points or options.points[0] < batch:
        raise ValueError(f"--points is {options.points}, expected numbers of row-updates of at least a step's {batch}")
    if not options.seeds or options.seeds[0] < 0:
        raise ValueError(f"--seeds is {options.seeds}, expected integers of at least 0")
    if bool(options.first_text) != bool(options.first_rows):
        raise ValueError("--first_text and --first_rows go together, but only one of them was given")
    most = Stop.at(options.points[0], batch).leave * batch
    if options.first_rows and (options.first_rows >= most or options.first_rows % batch):
        raise ValueError(
            f"--first_rows is {options.first_rows}, expected a multiple of a step's {batch} rows, fewer than the first "
            f"point leaves after"
        )
    for own in chosen:
        if options.first_rows and (own.join == "pooled" or own.hidden_size is not None):
            raise ValueError(f"{own.name}: has no states like the original's, which --first_text teaches")
        if own.learn != "distilled" or own.start or own.folder or own.masked_epochs:
            raise ValueError(f"{own.name}: learn, start, folder and masked_epochs have no curve")
        if batch % own.num_instances:
            raise ValueError(
                f"--per_device_train_batch_size is {batch}, expected a multiple of num_instances, which is "
                f"{own.num_instances} of {own.name}"
            )
    return chosen


if __name__ == "__main__":
    run_program(main)
