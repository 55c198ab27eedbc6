"""The recipe of a training run: sizes, lengths, steps and learning rates, as data in ``training/recipes/*.yaml``.

Every value is also an argument of ``train.py``, which overrides the recipe's. All variants see the same rows, the same
number of them in a step, and the same schedule. Learning rate, epochs and warm-up may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import fastmux
from fastmux.configuration import SEQUENCE_SUMMARIES
from fastmux.settings import integer, number, one_of
from fastmux.training.settings import build, check, check_keys, documented, read_yaml, typed

#: The recipes that have a name.
RECIPES = Path(__file__).resolve().parent / "recipes"


@documented(multiplexers=fastmux.MULTIPLEXERS)
@dataclass(frozen=True)
class Recipe:
    """The values of a recipe. On the command line, those that were not given are None.

    Attributes:
        num_instances: The number N of rows that share one pass of the encoder.
        max_length: The most tokens L of a row, [CLS] and [SEP] included. Longer rows are cut.
        vocab_size: The size of the vocabulary of the tokenizer that is trained on the task's text.
        hidden_size: The width d of the encoder.
        num_layers: The number of the encoder's layers.
        num_heads: The number of attention heads in each layer.
        intermediate_size: The width of the encoder's feed-forward layers.
        start_from_neighbours: Let each head of a new encoder's first layer begin by attending to a neighbouring
            position. This helps where tokens are characters, which say little one by one.
        shallow_layers: The number of layers of the variant shallow, a plain encoder with fewer of them.
        narrow_size: The width of the variant narrow, a narrower plain encoder. Its feed-forward layers are narrower in
            proportion.
        narrow_layers: The number of layers of the variant narrow.
        joined_row_layers: The number of layers of the variant joined that run on every position. The others run on
            averages of N positions.
        dropout: The dropout of the plain encoder and its head.
        mux_dropout: The dropout of the multiplexed models' encoder and head in the task stage. The warm-up has none.
        multiplexer: How N rows become one: one of {multiplexers}.
        sequence_summary: What the heads of the multiplexed models read of a row: first, the state at its first
            position; or mean, that of all positions, which are then all demultiplexed. A pretrained encoder
            (--encoder) is read at the first position.
        retrieval_rows: The number of rows in a step of the warm-up, on each device. It must be a multiple of N.
        retrieval_steps: The number of steps of the retrieval warm-up. 0 leaves it out.
        unbind_retrieval_steps: The number of these steps for the demultiplexer unbind, which needs fewer.
        retrieval_learning_rate: The peak learning rate of the retrieval warm-up.
        task_rows: The number of rows in a step of the task stage, on each device, for every variant. It must be a
            multiple of N.
        task_epochs: The number of epochs of the plain encoder's task stage.
        mux_task_epochs: The number of epochs of the multiplexed models' task stage. N of them cost as many encoder
            passes as one plain epoch.
        plain_learning_rate: The peak learning rate of the plain encoder's task stage.
        mux_learning_rate: The peak learning rate of the multiplexed models' task stage.
        group_by_length: Let the rows of a batch have similar lengths in the task stage.
        retrieval_loss_weight: The weight w of retrieval in the task stage's loss, (1 - w) * task + w * retrieval.
        task_retrieval_percentage: The share, in (0, 1], of positions at which the task stage's retrieval loss is
            computed.
        distillation_weight: The share of the multiplexed models' task loss that is distillation from the plain encoder.
            It is 0 if the variant plain is not trained.
        distillation_temperature: The temperature of the distillation.
    """

    _argument_group_name = "recipe (each argument overrides one value of it)"

    num_instances: int | None = integer(None, 1)
    max_length: int | None = integer(None, 3)
    vocab_size: int | None = integer(None, 300)
    hidden_size: int | None = integer(None, 1)
    num_layers: int | None = integer(None, 1)
    num_heads: int | None = integer(None, 1)
    intermediate_size: int | None = integer(None, 1)
    start_from_neighbours: bool | None = None
    shallow_layers: int | None = integer(None, 1)
    narrow_size: int | None = integer(None, 1)
    narrow_layers: int | None = integer(None, 1)
    joined_row_layers: int | None = integer(None, 0)
    dropout: float | None = number(None, 0, 1, below=True)
    mux_dropout: float | None = number(None, 0, 1, below=True)
    multiplexer: str | None = one_of(None, tuple(fastmux.MULTIPLEXERS))
    sequence_summary: str | None = one_of(None, SEQUENCE_SUMMARIES)
    retrieval_rows: int | None = integer(None, 1)
    retrieval_steps: int | None = integer(None, 0)
    unbind_retrieval_steps: int | None = integer(None, 0)
    retrieval_learning_rate: float | None = number(None, above=True)
    task_rows: int | None = integer(None, 1)
    task_epochs: float | None = number(None, above=True)
    mux_task_epochs: float | None = number(None, above=True)
    plain_learning_rate: float | None = number(None, above=True)
    mux_learning_rate: float | None = number(None, above=True)
    group_by_length: bool | None = None
    retrieval_loss_weight: float | None = number(None, 0, 1, below=True)
    task_retrieval_percentage: float | None = number(None, 0, 1, above=True)
    distillation_weight: float | None = number(None, 0, 1)
    distillation_temperature: float | None = number(None, above=True)

    def override(self, given: Recipe) -> Recipe:
        """This recipe with every value that ``given`` has.

        Raises:
            ValueError: A value is out of range, or rows do not fill whole groups.
        """
        recipe = replace(self, **{name: value for name, value in vars(given).items() if value is not None})
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise ValueError for a value out of range."""
        check(self)
        for name in ("retrieval_rows", "task_rows"):
            if getattr(self, name) % self.num_instances:
                raise ValueError(
                    f"{name} must be a multiple of num_instances={self.num_instances}, "
                    f"got {getattr(self, name)}: a group that is filled up with repeated rows wastes the pass"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")


def pretrained_values() -> Recipe:
    """What a task's own recipe has in place of its values where the encoder is a pretrained one."""
    path, values = read_yaml(RECIPES, "pretrained", "recipe")
    return build(Recipe, values, str(path), "recipe")


def read_recipe(name: str) -> Recipe:
    """Reads a recipe by its name, or from a YAML file. It has a value for each field of `Recipe`; or some values and
    ``base``, the name of a recipe that has the others.

    Raises:
        ValueError: There is no such recipe; a key is unknown (the message has the closest known one), missing, or has a
            value of another type; a base has a base of its own.
    """
    path, values = read_yaml(RECIPES, name, "recipe")
    known = [own.name for own in fields(Recipe)]
    check_keys(values, ("base", *known), str(path), "recipe")
    if (base := values.pop("base", None)) is not None:
        base_path, inherited = read_yaml(RECIPES, typed(str(path), "base", base, str), "recipe")
        if "base" in inherited:
            raise ValueError(f"{path}: base {base!r} has a base of its own, {inherited['base']!r}: name that one")
        check_keys(inherited, known, str(base_path), "recipe")
        values = {**inherited, **values}
    if missing := [key for key in known if values.get(key) is None]:
        raise ValueError(f"{path}: no value for {', '.join(missing)}")
    recipe = build(Recipe, values, str(path), "recipe")
    try:
        recipe.check()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe
