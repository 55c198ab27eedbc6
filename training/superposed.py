"""Is a plain encoder trained cheaper if it is superposed at first? Masked-language modelling from scratch, and in the
same processor time

  - plain;
  - superposed: N rows, or N neighbouring positions, share each pass for nine tenths of the time, and the last tenth
    recovers the encoder to N = 1.

All ways start from the same weights and rows, a seed each, and end as the same plain BERT, which is scored on held-out
text all along: the loss and the share of hidden tokens that are said rightly. How many steps fit into --seconds is
measured once, before the first step; what they then took is in the table. Sizes, rates and ways are a file:
training/recipes/masked/wikitext.yaml, or your own. Killed and started again, the program goes on to the same result.

examples:
  python training/superposed.py --data_dir DIR --seconds 1200
  python training/superposed.py --data_dir DIR --seconds 3600 --ways plain superposed-4 --seeds 0 1 2 3 4
  python training/superposed.py --data_dir DIR --recipe my.yaml --output_dir runs/mine
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from transformers import HfArgumentParser

from fastmux.files import write_json
from fastmux.settings import integer, number, one_of
from fastmux.training.folders import SETTINGS, check_folder
from fastmux.training.masked_recipe import read_masked_recipe
from fastmux.training.programs import environment, finish, run_program
from fastmux.training.settings import check, documented
from fastmux.training.superposed_run import SuperposedRun, plot, section


@documented()
@dataclass
class SuperposedOptions:
    """The program's arguments.

    Attributes:
        data_dir: A folder with wikitext-2.train.txt and wikitext-2.valid.txt, or .gz, or with a subfolder wikitext.
        recipe: Name of a file in training/recipes/masked, or a YAML file.
        seconds: The processor time of training, of each way and seed.
        ways: Those of the recipe's ways to train. Default: all.
        seeds: Of weights, signs, rows and what is hidden: a run of each way for each.
        evaluations: How often a model is scored on its way.
        max_train_rows: Learn from so many rows. Default: all.
        max_evaluation_rows: Score on so many rows. Default: all.
        precision: Of training: float32; bf16, bfloat16 autocast; or auto, the quicker for the plain way, as measured.
        output_dir: Folder to write. Default: runs/superposed-RECIPE.
        save_seconds: How often the state of what is being trained is written.
    """

    data_dir: str
    recipe: str = "wikitext"
    seconds: float = number(1200.0, above=True)
    ways: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    evaluations: int = integer(20, 1)
    max_train_rows: int | None = integer(None, 1)
    max_evaluation_rows: int | None = integer(None, 1)
    precision: str = one_of("auto", ("auto", "float32", "bf16"))
    output_dir: str | None = None
    save_seconds: float = number(300.0, 0)


#: Arguments that may differ when a folder is gone on with.
_FURTHER = ("data_dir", "ways", "seeds", "output_dir", "save_seconds")


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``superposed.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    parser = HfArgumentParser(
        SuperposedOptions,
        usage="superposed.py --data_dir DIR [argument ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    (options,) = parser.parse_args_into_dataclasses(argv)
    check(options, "--")
    recipe = read_masked_recipe(options.recipe)
    if unknown := [name for name in options.ways if name not in recipe.ways]:
        raise ValueError(f"--ways {unknown[0]!r}: {options.recipe} has {', '.join(recipe.ways)}")
    folder = Path(options.output_dir or f"runs/superposed-{Path(options.recipe).stem}")
    settings = {k: v for k, v in asdict(options).items() if k not in _FURTHER}
    if wrong := [seed for seed in options.seeds if not 0 <= seed < 2**32]:
        raise ValueError(f"--seeds is {wrong[0]}, expected integers of at least 0, below 2**32")
    run = SuperposedRun(options, recipe, folder)
    identity = {**settings, "recipe": asdict(recipe) | {"ways": None}, "rows": run.digest}
    check_folder(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, identity)
    run.check_ways()
    run.train()
    found = run.found()
    plot(folder / "superposed.png", found)
    given = settings | {"recipe": Path(options.recipe).stem, "seeds": options.seeds, "ways": list(run.ways)}
    result = {"environment": environment(), "settings": given, "sizes": asdict(recipe), **found}
    finish(result, section, folder / "superposed.json", ", superposed.png, and a folder for each model")
    return result


if __name__ == "__main__":
    run_program(main)
