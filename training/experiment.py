"""Train networks on N rows at once beside the plain one, and print a table: one command a table, or one a cell.

A recipe (training/experiments/*.yaml) names an experiment and variants of it. Each variant is trained with each N and
seed that the recipe has, with the Hugging Face Trainer, rows in another order in every epoch; it is scored on several
random groupings of the test rows. The table has mean and spread, the score by slot of a group, and the difference to
the plain network with an interval.

Cells that are finished are kept in --output_dir: give the same command again to go on, or other --variants and
--num_instances for more cells of the same table. Any key of a variant is an argument too, for all variants:
--num_train_epochs 2, --multiplexer rotation, --use_cpu true.

examples:
  python training/experiment.py mnist_cnn --data_dir DIR
  python training/experiment.py mnist_cnn --variants rotation --num_instances 4 --seeds 0
  python training/experiment.py my.yaml --learning_rate 2e-3 --output_dir runs/mine
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as in train.py.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import datasets
import transformers
import yaml

from fastmux.files import changes, write_json
from fastmux.training.folders import SETTINGS, check_folder
from fastmux.training.formatting import number
from fastmux.training.programs import environment, finish, options_of, run_program
from fastmux.training.tables import cell as cells
from fastmux.training.tables.recipe import RECIPES, TableRecipe, read_recipe
from fastmux.training.tables.table import TableRow, plot, section, table_rows


def make_parser() -> argparse.ArgumentParser:
    usage = "experiment.py RECIPE [--data_dir DIR] [--variants ...] [--num_instances ...] [--KEY VALUE ...]"
    recipes = f"recipes: {', '.join(sorted(path.stem for path in RECIPES.glob('*.yaml')))}"
    parser = options_of(__doc__, None, prog="experiment.py", usage=usage, epilog=recipes, allow_abbrev=False)
    add, data = parser.add_argument, os.environ.get("FASTMUX_DATA")
    add("recipe", metavar="RECIPE", help="The name of a recipe, or a YAML file like one of them.")
    files = "A folder with the experiment's files, or with a subfolder that holds them; $FASTMUX_DATA sets the default."
    add("--data_dir", default=data, help=files)
    add("--variants", nargs="+", metavar="NAME", help="What to train. Default: all of the recipe's.")
    add("--num_instances", nargs="+", type=_value, metavar="N", help="Rows a pass. Default: the recipe's.")
    add("--seeds", nargs="+", type=_value, metavar="SEED", help="Default: the recipe's.")
    add("--groupings", type=_value, help="Random orders of the test rows. Default: the recipe's.")
    add("--output_dir", help="The folder to write. Default: runs/RECIPE.")
    return parser


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, TableRecipe]:
    """The program's arguments, and the recipe with what was given in place of its own values.

    Raises:
        ValueError: An argument is no key, or has a bad value.
    """
    options, more = make_parser().parse_known_args(argv)
    if options.data_dir is None:
        raise ValueError("--data_dir is needed, or FASTMUX_DATA in the environment: the folder with the data")
    names = ("num_instances", "seeds", "groupings")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    while more:
        name, *more = more
        if not name.startswith("--") or not more:
            raise ValueError(f"{name!r} is not a pair of --KEY VALUE")
        given[name.removeprefix("--")] = _value(more.pop(0))
    return options, read_recipe(options.recipe, given)


def _value(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a value in YAML: {error}") from error


def choose_folder(output_dir: str | None, recipe: TableRecipe) -> Path:
    """The folder to write to: a new one, or one whose cells belong to this table.

    Raises:
        ValueError: It holds something else.
    """
    folder = Path(output_dir or f"runs/{recipe.name}")
    check_folder(folder, recipe.identity())
    for was in finished_cells(folder, recipe):
        own = recipe.cell(was.variant, was.num_instances, was.seed)
        if changed := changes(was.settings, own.settings, {**was.settings, **own.settings}):
            raise ValueError(f"--output_dir {folder} holds {own.name}: {changed}. Give another folder")
    return folder


def finished_cells(folder: Path, recipe: TableRecipe) -> list[cells.CellResult]:
    """The finished cells of a recipe's variants in a folder, in the table's order."""
    order = list(recipe.variants)
    found = [cells.finished(path) for path in (folder.iterdir() if folder.is_dir() else ())]
    own = [cell for cell in found if cell is not None and cell.variant in order]
    return sorted(own, key=lambda cell: (order.index(cell.variant), cell.num_instances, cell.seed))


def main(argv: list[str] | None = None) -> list[TableRow]:
    """Runs the program, and returns the rows of its table.

    Raises:
        ValueError: Bad input, found before anything is trained or written.
        OSError: A file could not be written.
    """
    started = time.perf_counter()
    options, recipe = parse(argv)
    folder = choose_folder(options.output_dir, recipe)
    chosen = recipe.cells(options.variants)
    waiting = [cell for cell in chosen if cells.finished(folder / cell.name) is None]
    for cell in waiting:
        cells.load(cell, options.data_dir)
        cells.make_model(cell)
        cells.training_arguments(cell, folder)
    # Only now, when all input is known to be good, is anything written.
    write_json(folder / SETTINGS, recipe.identity())
    print(f"{recipe.name}: {len(chosen)} cells, {len(waiting)} to train; writing to {folder}", flush=True)
    for done, cell in enumerate(waiting, 1):
        found = cells.run(cell, folder / cell.name, options.data_dir, recipe.groupings)
        name, score = next(iter(found.scores.items()))
        line = f"{cell.variant}, N = {cell.num_instances}, seed {cell.seed}: {name} {number(score.mean)}"
        print(f"{done}/{len(waiting)}  {line}, {found.seconds:.0f} s", flush=True)

    own, experiment = finished_cells(folder, recipe), recipe.kind
    rows = table_rows(own, experiment.metrics[0], experiment.splits_by_seed, recipe.published)
    rows += references(recipe, sorted({cell.seed for cell in own}), options.data_dir)
    result = {
        "experiment": experiment.name,
        "recipe": recipe.name,
        "metric": experiment.metrics[0].name,
        "environment": environment(),
        "settings": recipe.identity(),
        "table": [asdict(row) for row in rows],
        "cells": [cell.record() for cell in own],
    }
    title = f"{recipe.name}, {result['environment']['device']}"
    plot(folder / "results.png", rows, experiment.metrics[0], title, experiment.over)
    finish(result, section, folder / "results.json", ", results.png")
    print(f"{time.perf_counter() - started:.0f} s")
    return rows


def references(recipe: TableRecipe, seeds: list[int], data_dir: str) -> list[TableRow]:
    """The rows of the experiment's figures to beat, over the seeds of the table."""
    experiment, by_name = recipe.cells()[0].experiment, {}
    seeds = seeds if experiment.splits_by_seed else seeds[:1]
    for seed in seeds:
        for name, rows in experiment.references(*experiment.load(data_dir, seed)).items():
            for metric, values in rows.items():
                by_name.setdefault(name, {}).setdefault(metric, []).append(values.float().numpy())
    return [TableRow(name, 0, seeds, experiment.scores(rows)) for name, rows in by_name.items()]


if __name__ == "__main__":
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    run_program(main)
