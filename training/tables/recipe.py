"""The recipe of a table: an experiment and its variants, as data in ``training/experiments/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from fastmux.settings import check_fields, integer, one_of
from fastmux.training.experiments import EXPERIMENTS, Experiment, Multiplexing
from fastmux.training.settings import DECIDED, build, check_keys, read_yaml, typed, types_of

#: The recipes that have a name.
RECIPES = Path(__file__).resolve().parent.parent / "experiments"
#: Trainer arguments that this program decides.
REFUSED = {
    **DECIDED,
    "output_dir": "it is an argument of the program",
    "seed": "give seeds, a list",
    "data_seed": "give seeds, a list",
    "eval_strategy": "every cell is scored once it is trained",
}
_BATCHES = ("per_device_train_batch_size", "per_device_eval_batch_size")


@dataclass(frozen=True)
class Cell:
    """One model of a table, and how it is trained.

    Attributes:
        variant: Its name in the table.
        seed: The seed of everything that is random.
        experiment: The experiment with the variant's options.
        multiplexing: How N rows share a pass.
        trainer: The `TrainingArguments` that were given.
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
        """Everything that was set. A finished cell is this one if it has the same settings."""
        return {**vars(self.experiment), **asdict(self.multiplexing), **self.trainer}

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.num_instances}-{self.seed}"


@dataclass(frozen=True)
class TableRecipe:
    """The recipe of a table.

    Attributes:
        name: The name of the recipe, or of its file.
        experiment: A key of `EXPERIMENTS`.
        seeds: The seeds with each of which every cell is trained.
        groupings: The number of random orders of the test rows over which a multiplexed model is scored.
        defaults: The settings of variants that do not set them.
        published: What others have reported of the first metric, by variant and N. The table shows it.
        variants: The settings of each variant by its name: options of the experiment, of `Multiplexing` and of
            `TrainingArguments`. ``num_instances`` is a list, and ``at`` has settings for one N alone, by N.
    """

    name: str
    experiment: str = one_of("", EXPERIMENTS)  # whatever is registered by then
    seeds: list[int] = field(default_factory=lambda: [0])
    groupings: int = integer(3, 1)
    defaults: dict[str, Any] = field(default_factory=dict)
    published: dict[str, dict[int, float]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        check_fields(self)

    @property
    def kind(self) -> type[Experiment]:
        return EXPERIMENTS[self.experiment]

    def identity(self) -> dict[str, object]:
        """What cells of two calls must have in common to stand in one table, besides each cell's own settings."""
        return {"experiment": self.experiment, "groupings": self.groupings}

    def cells(self, variants: list[str] | None = None) -> list[Cell]:
        """The cells of these variants, or of all, in the table's order.

        Raises:
            ValueError: An unknown variant; options that do not fit; a batch that whole groups do not fill.
        """
        check_keys(variants or [], self.variants, "--variants", "recipe's variants")
        chosen = {name: own for name, own in self.variants.items() if variants is None or name in variants}
        return [
            self.cell(name, n, seed)
            for name, own in chosen.items()
            for n in own["num_instances"]
            for seed in self.seeds
        ]

    def cell(self, name: str, num_instances: int, seed: int) -> Cell:
        """One cell of a variant, with any N. Raises ValueError as `cells`."""
        settings = {**self.variants[name], **self.variants[name]["at"].get(num_instances, {})}
        settings["num_instances"] = num_instances
        for key in _BATCHES:
            if settings[key] < 1 or settings[key] % num_instances:
                raise ValueError(
                    f"{name}: {key} must be a multiple of num_instances={num_instances}, got {settings[key]}: a group "
                    "that is filled up with repeated rows wastes the pass"
                )
        experiment, multiplexing, trainer = (
            {own.name: settings[own.name] for own in fields(kind) if own.name in settings}
            for kind in (self.kind, Multiplexing, TrainingArguments)
        )
        made = build(self.kind, experiment, name, "variant"), build(Multiplexing, multiplexing, name, "variant")
        return Cell(name, seed, *made, trainer)


def read_recipe(name: str, given: Mapping[str, Any]) -> TableRecipe:
    """Reads a recipe by its name or file. Values of the command line replace its own.

    Args:
        given: ``seeds`` and ``groupings``; and keys of variants, for all of them. ``num_instances`` is not for those
            that the recipe has with N = 1 alone.

    Raises:
        ValueError: There is no such recipe; a key is unknown (the message has the closest known one), or has a value of
            another type.
    """
    path, values = read_yaml(RECIPES, name, "recipe")
    values |= {key: given[key] for key in ("seeds", "groupings") if key in given}
    recipe: TableRecipe = build(TableRecipe, values, str(path), "recipe", name=path.stem)
    for seed in recipe.seeds:
        if typed(str(path), "seeds", seed, int) < 0:
            raise ValueError(f"{path}: seeds must be at least 0, got {seed}")
    if not recipe.variants:
        raise ValueError(f"{path}: variants must be lines 'name: {{key: value, ...}}', got none")
    check_keys(recipe.published, recipe.variants, f"{path}: published", "recipe's variants")
    for variant, own in recipe.published.items():
        typed(f"{path}: published", variant, own, dict)

    kinds = {key: kind for cls in (TrainingArguments, Multiplexing, recipe.kind) for key, kind in types_of(cls).items()}
    kinds |= {"num_instances": (int, list), "at": (dict,)}
    defaults = _settings(recipe.defaults, kinds, f"{path}: defaults")
    more = {key: value for key, value in given.items() if key not in ("seeds", "groupings")}
    override = _settings(more, kinds, "the command line")
    for variant, own in recipe.variants.items():
        settings = {"num_instances": [1], "at": {}, **defaults, **_settings(own, kinds, f"{path}: {variant}")}
        alone = settings["num_instances"] == [1]
        settings |= {key: value for key, value in override.items() if key != "num_instances" or not alone}
        settings["at"] = {n: {k: v for k, v in at.items() if k not in override} for n, at in settings["at"].items()}
        settings.setdefault(_BATCHES[0], TrainingArguments.per_device_train_batch_size)
        settings.setdefault(_BATCHES[1], settings[_BATCHES[0]])
        recipe.variants[variant] = settings
    return recipe


def _settings(values: object, kinds: dict[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """The settings of a variant, checked, with N as a list."""
    values = typed(where, "settings", values, dict)
    for key in REFUSED.keys() & values.keys():
        raise ValueError(f"{where}: {key} is not a variant's: {REFUSED[key]}")
    check_keys(values, kinds, where, "variant")
    checked = {key: typed(where, key, value, *kinds[key]) for key, value in values.items()}
    if "at" in checked:
        inner = {key: kind for key, kind in kinds.items() if key not in ("num_instances", "at")}
        checked["at"] = {n: _settings(own, inner, f"{where}, N = {n}") for n, own in checked["at"].items()}
    if "num_instances" in checked:
        numbers = checked["num_instances"]
        checked["num_instances"] = numbers = numbers if isinstance(numbers, list) else [numbers]
        for number in numbers:
            if typed(where, "num_instances", number, int) < 1:
                raise ValueError(f"{where}: num_instances must be at least 1, got {number}")
    return checked
