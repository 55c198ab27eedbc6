"""What a training run is made of: models, lengths, steps and learning rates, as data in ``training/recipes/*.yaml``.

Every value is also an argument of ``train.py``, which overrides the recipe's. The same rows, as many a step, and the
same schedule serve every variant; the learning rate, the number of epochs and the warm-up are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import fastmux
from training.named_yaml import check_keys, read_yaml, typed

#: The recipes that have a name.
RECIPES = Path(__file__).resolve().parent / "recipes"


def _value(help: str):
    return field(default=None, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """The values of a recipe; None, on the command line only, for what is not given."""

    _argument_group_name = "recipe (each argument overrides one value of it)"

    num_instances: int | None = _value("N, rows that share one pass of the encoder.")
    max_length: int | None = _value("L, tokens of a row, [CLS] and [SEP] included; longer rows are cut.")
    vocab_size: int | None = _value("Entries of the tokenizer that is trained on the task's text.")
    hidden_size: int | None = _value("d, width of the encoder.")
    num_layers: int | None = _value("Layers of the encoder.")
    num_heads: int | None = _value("Attention heads of the encoder.")
    intermediate_size: int | None = _value("Width of the encoder's feed-forward layers.")
    start_from_neighbours: bool | None = _value(
        "Make each head of a new encoder's first layer begin by looking at a neighbouring position: for characters, "
        "which say little one by one."
    )
    shallow_layers: int | None = _value("Layers of the variant shallow: the plain encoder with fewer of them.")
    narrow_size: int | None = _value(
        "Width of the variant narrow: the plain encoder with less of it, its feed-forward layers in proportion."
    )
    narrow_layers: int | None = _value("Layers of the variant narrow.")
    joined_row_layers: int | None = _value(
        "Layers of the variant joined that run on every position; the others run on N positions averaged."
    )
    dropout: float | None = _value("Dropout of the plain encoder and its head.")
    mux_dropout: float | None = _value(
        "Dropout of the multiplexed models' encoder and head in the task stage (0 in the retrieval warm-up): the rows "
        "that share a pass disturb each other as it is."
    )
    multiplexer: str | None = _value(f"How rows are joined: one of {', '.join(fastmux.MULTIPLEXERS)}.")
    retrieval_rows: int | None = _value("Rows of a warm-up step, on each device; a multiple of N.")
    retrieval_steps: int | None = _value("Steps of the retrieval warm-up; 0 leaves it out.")
    unbind_retrieval_steps: int | None = _value("The same for the demultiplexer unbind, which needs fewer.")
    retrieval_learning_rate: float | None = _value("Peak learning rate of the retrieval warm-up.")
    task_rows: int | None = _value("Rows of a task step, on each device; a multiple of N. The same for every variant.")
    task_epochs: float | None = _value("Epochs of the plain encoder's task stage.")
    mux_task_epochs: float | None = _value(
        "Epochs of the multiplexed encoders' task stage, N of which cost as many encoder passes as one plain epoch."
    )
    plain_learning_rate: float | None = _value("Peak learning rate of the plain encoder's task stage.")
    mux_learning_rate: float | None = _value("Peak learning rate of the multiplexed encoders' task stage.")
    group_by_length: bool | None = _value("Draw batches of rows of like length in the task stage.")
    retrieval_loss_weight: float | None = _value(
        "Lambda: the task stage's loss is (1 - lambda) * task + lambda * retrieval."
    )
    task_retrieval_percentage: float | None = _value(
        "Share, in (0, 1], of the positions at which the task stage's retrieval loss asks."
    )
    distillation_weight: float | None = _value(
        "Share of the multiplexed models' task loss that is distillation from the plain encoder, if that is among "
        "--variants; 0 for none."
    )
    distillation_temperature: float | None = _value("Temperature of the distillation.")

    def override(self, given: Recipe) -> Recipe:
        """This recipe with every value that ``given`` has.

        Raises:
            ValueError: a value is out of range, or rows do not fill whole groups.
        """
        values = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) is not None}
        recipe = replace(self, **values)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        least = {"num_instances": 1, "max_length": 3, "vocab_size": 300, "retrieval_steps": 0}
        least |= {
            "unbind_retrieval_steps": 0,
            "hidden_size": 1,
            "num_layers": 1,
            "num_heads": 1,
            "intermediate_size": 1,
            "shallow_layers": 1,
            "narrow_size": 1,
            "narrow_layers": 1,
            "joined_row_layers": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        for name in (
            "task_epochs",
            "mux_task_epochs",
            "retrieval_learning_rate",
            "plain_learning_rate",
            "mux_learning_rate",
            "distillation_temperature",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("retrieval_rows", "task_rows"):
            if getattr(self, name) < 1 or getattr(self, name) % self.num_instances:
                raise ValueError(
                    f"{name} must be a multiple of num_instances={self.num_instances}, "
                    f"got {getattr(self, name)}: a group that is filled up with repeated rows wastes the pass"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        if self.multiplexer not in fastmux.MULTIPLEXERS:
            raise ValueError(f"multiplexer must be one of {', '.join(fastmux.MULTIPLEXERS)}, got {self.multiplexer!r}")
        if not 0 < self.task_retrieval_percentage <= 1:
            raise ValueError(f"task_retrieval_percentage must be in (0, 1], got {self.task_retrieval_percentage}")
        if not 0 <= self.distillation_weight <= 1:
            raise ValueError(f"distillation_weight must be in [0, 1], got {self.distillation_weight}")
        for name in ("dropout", "mux_dropout", "retrieval_loss_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def read_recipe(name: str) -> Recipe:
    """A recipe by name, or from a YAML file with a value for each field of `Recipe`; or with some values and ``base``,
    the name of a recipe that has the others.

    Raises:
        ValueError: there is no such recipe; a key is unknown (the message has the closest known one), missing, or has a
            value of another type; a base has a base of its own.
    """
    path, values = _read_values(name)
    kinds = {key: get_args(kind)[0] for key, kind in get_type_hints(Recipe).items()}
    check_keys(values, ("base", *kinds), str(path), "recipe")
    if (base := values.pop("base", None)) is not None:
        base_path, inherited = _read_values(typed(str(path), "base", base, str))
        if "base" in inherited:
            raise ValueError(f"{path}: base {base!r} has a base of its own, {inherited['base']!r}: name that one")
        check_keys(inherited, kinds, str(base_path), "recipe")
        values = {**inherited, **values}
    missing = [key for key in kinds if values.get(key) is None]
    if missing:
        raise ValueError(f"{path}: no value for {', '.join(missing)}")
    recipe = Recipe(**{key: typed(str(path), key, value, kinds[key]) for key, value in values.items()})
    try:
        recipe.check()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def _read_values(name: str) -> tuple[Path, dict]:
    path, values = read_yaml(RECIPES, name, "recipe")
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have lines 'key: value', got {values!r}")
    return path, values
