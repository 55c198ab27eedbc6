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
training/fronts/winners.yaml has every lever at two, four and eight times the speed,
training/fronts/levers.yaml what was tried to make multiplexed models better. Started again with the same
arguments, the program keeps finished models and measures them anew.

examples:
  python training/front.py --task sst2 --data_dir DIR --encoder sentence-transformers/all-MiniLM-L6-v2
  python training/front.py --task sst2 --data_dir DIR --encoder bert-base-uncased --candidates my.yaml
  python training/front.py --task qnli --encoder MINILM --max_train_rows 20000 --max_evaluation_rows 2000
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from transformers import AutoConfig

from fastmux.models.loading import read_pretrained
from fastmux.settings import Number, integer
from fastmux.training.fronts.candidates import USUAL, read_candidates
from fastmux.training.fronts.program import FrontFolder, FrontSettings, TaskSettings, parse
from fastmux.training.fronts.task_models import TaskModels
from fastmux.training.fronts.verdict import plot_task, section, sentence, task_table
from fastmux.training.programs import run_program
from fastmux.training.settings import documented
from fastmux.training.tasks import TASKS


@documented()
@dataclass
class FrontOptions(TaskSettings, FrontSettings):
    """The program's arguments.

    Attributes:
        target_agreement: Of cascades with the original: one each for each of these.
        seeds: Distil each model with so many seeds, and score their mean.
    """

    target_agreement: list[float] = field(
        default_factory=lambda: [0.99], metadata={"allowed": Number(False, 0, 1, above=True)}
    )
    seeds: int = integer(1, 1)


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``front.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    options = parse(FrontOptions, __doc__, argv)
    task = TASKS[options.task]()
    encoder = read_pretrained(AutoConfig, options.encoder, "--encoder")
    candidates = read_candidates(options.candidates or USUAL[task.kind], encoder.num_hidden_layers)
    folder = FrontFolder(options, f"front-{options.task}", _MEASURING)
    models = TaskModels(options, folder.path, task)
    models.check(candidates)
    folder.begin(models.digests("train"))
    points, best = models.measure(models.contestants(candidates))
    rows = models.counts()
    found = {"task": task.name, "metric": task.metric, "rows": rows, "entries": [asdict(point) for point in points]}
    found |= {"table": task_table(points, task.metric), "sentence": sentence(points), "winners": best}
    plot_task(folder.path / "front.png", points, f"{task.name}, {rows['evaluation']} rows", task.metric)
    return folder.write("front", found, section)


#: Arguments of this program that may differ when models are measured anew.
_MEASURING = ("max_evaluation_rows", "groupings", "target_agreement", "split", "seeds")


if __name__ == "__main__":
    run_program(main)
