"""Trains the cells of a table that train.py does not make: images, numbers, graphs, pruning; ``--help`` explains."""

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

from fastmux.files import read_json, write_json
from training.figures import number
from training.results import Score, environment
from training.tables import cell as cells
from training.tables.recipe import RECIPES, Recipe, read_recipe
from training.tables.report import Entry, entries, plot, table

DESCRIPTION = """\
Train networks on N rows at once beside the plain one, and print a table: one command a table, or one a cell.

A recipe (training/experiments/*.yaml) names an experiment and variants of it. Each variant is trained with each N and
seed that the recipe has, with the Hugging Face Trainer, rows in another order in every epoch; it is scored on several
random groupings of the test rows. The table has mean and spread, the score by slot of a group, and the difference to
the plain network with an interval.

Cells that are finished are kept in --output_dir: give the same command again to go on, or other --variants and
--num_instances for more cells of the same table. Any key of a variant is an argument too, for all variants:
--num_train_epochs 2, --multiplexer rotation, --use_cpu true."""

EPILOG = f"""\
recipes: {", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))}

examples:
  python training/experiment.py mnist_cnn --data_dir DIR
  python training/experiment.py mnist_cnn --variants rotation --num_instances 4 --seeds 0
  python training/experiment.py my.yaml --learning_rate 2e-3 --output_dir runs/mine"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiment.py",
        usage="experiment.py RECIPE [--data_dir DIR] [--variants ...] [--num_instances ...] [--KEY VALUE ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe, or a YAML file like one of them")
    parser.add_argument(
        "--data_dir",
        default=os.environ.get("FASTMUX_DATA"),
        help="folder with the experiment's files, or with a subfolder that holds them; default: FASTMUX_DATA",
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="what to train; default: all of the recipe's")
    parser.add_argument("--num_instances", nargs="+", metavar="N", help="rows a pass; default: the recipe's")
    parser.add_argument("--seeds", nargs="+", metavar="SEED", help="default: the recipe's")
    parser.add_argument("--groupings", help="random orders of the test rows; default: the recipe's")
    parser.add_argument("--output_dir", help="folder to write; default: runs/RECIPE")
    return parser


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, Recipe]:
    """The program's arguments, and the recipe with what was given in place of its own values.

    Raises:
        ValueError: an argument that is no key, or has a bad value.
    """
    options, more = make_parser().parse_known_args(argv)
    if options.data_dir is None:
        raise ValueError("--data_dir is needed, or FASTMUX_DATA in the environment: the folder with the data")
    given: dict[str, object] = {}
    for name in ("num_instances", "seeds"):
        if getattr(options, name) is not None:
            given[name] = [_value(text) for text in getattr(options, name)]
    if options.groupings is not None:
        given["groupings"] = _value(options.groupings)
    while more:
        name, *more = more
        if not name.startswith("--") or not more:
            raise ValueError(f"{name!r} is no pair of --KEY VALUE")
        given[name.removeprefix("--")] = _value(more.pop(0))
    return options, read_recipe(options.recipe, given)


def _value(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is no value: {error}") from error


def choose_folder(output_dir: str | None, recipe: Recipe) -> Path:
    """The folder to write to: new, or one whose cells belong to this table.

    Raises:
        ValueError: it holds something else.
    """
    folder = Path(output_dir or f"runs/{recipe.name}")
    settings = folder / "settings.json"
    if folder.exists() and not settings.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output_dir {folder} exists and holds no table (no settings.json); give another folder")
    if settings.is_file():
        before, now = read_json(settings), recipe.identity()
        changed = [name for name in ("experiment", "groupings") if before.get(name) != now[name]]
        pairs = [f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed]
        for found in filter(None, map(cells.finished, folder.iterdir())):
            was = found.result
            if was.variant in recipe.variants:
                own = recipe.cell(was.variant, was.num_instances, was.seed)
                for key in {**was.settings, **own.settings}:
                    if was.settings.get(key) != own.settings.get(key):
                        pairs.append(f"{own.name}: {key} was {was.settings.get(key)!r}, is {own.settings.get(key)!r}")
        if pairs:
            raise ValueError(
                f"--output_dir {folder} holds a table with other settings: {'; '.join(pairs)}. Give another folder"
            )
    return folder


def main(argv: list[str] | None = None) -> list[Entry]:
    """Runs the program; returns the lines of its table.

    Raises:
        ValueError: bad input, found before anything is trained or written.
        OSError: a file could not be written.
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
    write_json(folder / "settings.json", recipe.identity())
    print(f"{recipe.name}: {len(chosen)} cells, {len(waiting)} to train; writing to {folder}", flush=True)
    for done, cell in enumerate(waiting, 1):
        found = cells.run(cell, folder / cell.name, options.data_dir, recipe.groupings).result
        name, score = next(iter(found.scores.items()))
        line = f"{cell.variant}, N = {cell.num_instances}, seed {cell.seed}: {name} {number(score.mean)}"
        print(f"{done}/{len(waiting)}  {line}, {found.seconds:.0f} s", flush=True)
    return write_report(recipe, folder, options.data_dir, time.perf_counter() - started)


def write_report(recipe: Recipe, folder: Path, data_dir: str, seconds: float) -> list[Entry]:
    """Writes ``results.json`` and the plot of all finished cells of the folder, prints the table."""
    experiment, order = recipe.experiment, list(recipe.variants)
    found = [m for m in map(cells.finished, folder.iterdir()) if m and m.result.variant in order]
    found.sort(key=lambda m: (order.index(m.result.variant), m.result.num_instances, m.result.seed))
    lines = entries(found, experiment.metrics, experiment.splits_by_seed, recipe.published)
    lines += references(recipe, found, data_dir)
    result = {
        "experiment": experiment.name,
        "recipe": recipe.name,
        "metric": experiment.metrics[0].name,
        "environment": environment(),
        "settings": recipe.identity(),
        "table": [asdict(line) for line in lines],
        "cells": [asdict(m.result) for m in found],
    }
    write_json(folder / "results.json", result)
    title = f"{recipe.name}, {result['environment']['device']}"
    plot(folder / "results.png", lines, experiment.metrics[0], title, experiment.over)
    print(f"\n{title}, {seconds:.0f} s in this call\n{table(lines)}\n\nwritten: {folder / 'results.json'}, results.png")
    return lines


def references(recipe: Recipe, found: list[cells.Measured], data_dir: str) -> list[Entry]:
    """The experiment's figures to beat, over the seeds of the table."""
    by_name: dict[str, list[dict[str, float]]] = {}
    seeds = sorted({m.result.seed for m in found})
    metrics = recipe.experiment.metrics
    for seed in seeds if recipe.experiment.splits_by_seed else seeds[:1]:
        any_variant = recipe.cells()[0].experiment
        for name, rows in any_variant.references(*any_variant.load(data_dir, seed)).items():
            scores = {m.name: m.of_mean(float(rows[m.name].float().mean())) for m in metrics}
            by_name.setdefault(name, []).append(scores)
    return [
        Entry(name, 0, seeds[: len(own)], {m.name: Score.of([s[m.name] for s in own]) for m in metrics})
        for name, own in by_name.items()
    ]


if __name__ == "__main__":
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
