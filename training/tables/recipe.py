"""What a table is made of, as data: an experiment, and variants of it, in ``training/experiments/*.yaml``."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from transformers import TrainingArguments

from training.experiments import EXPERIMENTS, Experiment, Multiplexing
from training.named_yaml import check_keys, read_yaml, typed

#: The recipes that have a name.
RECIPES = Path(__file__).resolve().parent.parent / "experiments"
PLAIN = "plain"
#: Trainer arguments that this program decides.
REFUSED = {
    "output_dir": "it is an argument of the program",
    "seed": "give seeds, a list",
    "data_seed": "give seeds, a list",
    "do_eval": "every cell is scored once it is trained",
    "eval_strategy": "every cell is scored once it is trained",
    "load_best_model_at_end": "the last step is scored: choosing by test rows would flatter it",
    "label_smoothing_factor": "the experiment has the loss",
    "remove_unused_columns": "the program prepares the columns",
    "push_to_hub": "a cell's model is no Hugging Face model",
}


@dataclass(frozen=True)
class Cell:
    """One model of a table: what it is made of, and how it is trained.

    Attributes:
        variant: its name in the table.
        seed: of everything that is drawn.
        experiment: with the variant's options.
        multiplexing: with the cell's N.
        trainer: `TrainingArguments` that are given, and no others.
    """

    variant: str
    seed: int
    experiment: Experiment
    multiplexing: Multiplexing
    trainer: dict[str, object]

    @property
    def num_instances(self) -> int:
        return self.multiplexing.num_instances

    @property
    def settings(self) -> dict[str, object]:
        """All that was set: what must be the same for a finished cell to be this one."""
        return {**vars(self.experiment), **asdict(self.multiplexing), **self.trainer}

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.num_instances}-{self.seed}"


@dataclass(frozen=True)
class Recipe:
    """A table's recipe.

    Attributes:
        name: of the recipe, or its file's.
        experiment: its class.
        seeds: of which each cell is trained with every one.
        groupings: random orders of the test rows over which a multiplexed model is scored.
        published: what others have reported of the first metric, by variant and N, to stand beside.
        variants: settings by name, one dict each, of the experiment's options, of `Multiplexing` and of
            `TrainingArguments`; ``num_instances`` is a list, and ``at`` has settings for one N alone, by N.
    """

    name: str
    experiment: type[Experiment]
    seeds: list[int]
    groupings: int
    published: dict[str, dict[int, float]]
    variants: dict[str, dict[str, Any]]

    def identity(self) -> dict[str, object]:
        """What must be the same for cells of two calls to stand in one table, beside what each was made with."""
        return {"experiment": self.experiment.name, "groupings": self.groupings}

    def cells(self, variants: list[str] | None = None) -> list[Cell]:
        """The cells of these variants, or of all, in the table's order.

        Raises:
            ValueError: an unknown variant; options that do not fit; a batch that whole groups do not fill.
        """
        check_keys(variants or [], self.variants, "--variants", "recipe's variants")
        return [
            self.cell(name, num_instances, seed)
            for name, settings in self.variants.items()
            if variants is None or name in variants
            for num_instances in settings["num_instances"]
            for seed in self.seeds
        ]

    def cell(self, name: str, num_instances: int, seed: int) -> Cell:
        """One cell of a variant, with any N. Raises ValueError as `cells`."""
        settings = self.variants[name]
        settings = {**settings, **settings["at"].get(num_instances, {})}

        def part(kind: type) -> dict[str, Any]:
            return {f.name: settings[f.name] for f in fields(kind) if f.name in settings}

        for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if settings[key] < 1 or settings[key] % num_instances:
                raise ValueError(
                    f"{name}: {key} must be a multiple of num_instances={num_instances}, got {settings[key]}: a group "
                    "that is filled up with repeated rows wastes the pass"
                )
        try:
            experiment = self.experiment(**part(self.experiment))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        multiplexing = Multiplexing(**{**part(Multiplexing), "num_instances": num_instances})
        return Cell(name, seed, experiment, multiplexing, part(TrainingArguments))


def read_recipe(name: str, given: Mapping[str, Any]) -> Recipe:
    """A recipe by name or file, with what was given on the command line in place of its own values.

    Args:
        given: ``seeds`` and ``groupings``; and keys of variants, for all of them. ``num_instances`` is not for those
            that the recipe has with N = 1 alone.

    Raises:
        ValueError: there is no such recipe; a key is unknown (the message has the closest known one), or has a value of
            another type.
    """
    path, values = read_yaml(RECIPES, name, "recipe")
    where = str(path)
    if not isinstance(values, dict):
        raise ValueError(f"{where} must have lines 'key: value', got {values!r}")
    check_keys(values, ("experiment", "seeds", "groupings", "defaults", "published", "variants"), where, "recipe")
    check_keys([values.get("experiment")], EXPERIMENTS, where, "list of experiments")
    experiment = EXPERIMENTS[values["experiment"]]
    variants = values.get("variants")
    if not isinstance(variants, dict) or not variants:
        raise ValueError(f"{where}: variants must be lines 'name: {{key: value, ...}}', got {variants!r}")

    kinds = _kinds(experiment)
    top = {"seeds": values.get("seeds", [0]), "groupings": values.get("groupings", 3)}
    top |= {key: value for key, value in given.items() if key in top}
    defaults = _settings(values.get("defaults"), kinds, f"{where}: defaults")
    override = _settings({key: v for key, v in given.items() if key not in top}, kinds, "the command line")
    merged = {}
    for variant, own in variants.items():
        settings = {"num_instances": [1], "at": {}, **defaults, **_settings(own, kinds, f"{where}: {variant}")}
        alone = settings["num_instances"] == [1]
        settings |= {key: value for key, value in override.items() if key != "num_instances" or not alone}
        settings["at"] = {
            number: {key: value for key, value in own.items() if key not in override}
            for number, own in settings["at"].items()
        }
        settings.setdefault("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
        settings.setdefault("per_device_eval_batch_size", settings["per_device_train_batch_size"])
        merged[str(variant)] = settings
    for name, least in (("seeds", 0), ("groupings", 1)):
        for value in top[name] if name == "seeds" else [top[name]]:
            if typed(where, name, value, int) < least:
                raise ValueError(f"{where}: {name} must be at least {least}, got {value}")
    published = values.get("published", {})
    if not isinstance(published, dict) or not all(isinstance(own, dict) for own in published.values()):
        raise ValueError(f"{where}: published must be lines 'variant: {{N: score}}', got {published!r}")
    check_keys(published, merged, f"{where}: published", "recipe's variants")
    return Recipe(path.stem, experiment, top["seeds"], top["groupings"], published, merged)


def _settings(values: object, kinds: dict[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """Settings of a variant, checked; N as a list."""
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be lines 'key: value', got {values!r}")
    inner = {key: kind for key, kind in kinds.items() if key != "num_instances"}
    check_keys(values, [*kinds, *REFUSED, *(["at"] if len(inner) < len(kinds) else [])], where, "variant")
    for key in REFUSED.keys() & values.keys():
        raise ValueError(f"{where}: {key} is not a variant's: {REFUSED[key]}")
    checked = {key: typed(where, key, value, *inner[key]) for key, value in values.items() if key in inner}
    if "at" in values:
        if not isinstance(values["at"], dict):
            raise ValueError(f"{where}: at must be lines 'N: {{key: value}}', got {values['at']!r}")
        checked["at"] = {n: _settings(own, inner, f"{where}, N = {n}") for n, own in values["at"].items()}
    if "num_instances" in values:
        numbers = values["num_instances"]
        checked["num_instances"] = numbers if isinstance(numbers, list) else [numbers]
        for number in checked["num_instances"]:
            if typed(where, "num_instances", number, int) < 1:
                raise ValueError(f"{where}: num_instances must be at least 1, got {number}")
    return checked


def _kinds(experiment: type[Experiment]) -> dict[str, tuple[type, ...]]:
    """Keys of a variant, and the types that each may have."""
    kinds = {}
    for cls in (TrainingArguments, Multiplexing, experiment):
        hints = get_type_hints(cls)
        for field in fields(cls):
            hint = hints[field.name]
            union = get_origin(hint) in (Union, types.UnionType)
            parts = get_args(hint) if union else (hint,)
            plain = [get_origin(part) or part for part in parts]
            kinds[field.name] = tuple(dict if part is Mapping else part for part in plain)
    return {key: kind for key, kind in kinds.items() if key not in REFUSED}
