"""What a training run is made of: models, lengths, steps and learning rates, as data in ``training/recipes/*.yaml``.

Every value is also an argument of ``train.py``, which overrides the recipe's. The same rows, as many a step, and the
same schedule serve every variant; the learning rate, the number of epochs and the warm-up are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import fastmux
from fastmux.settings import integer, number, one_of
from training.settings import build, check, check_keys, documented, read_yaml, typed

#: The recipes that have a name.
RECIPES = Path(__file__).resolve().parent / "recipes"


@documented(multiplexers=fastmux.MULTIPLEXERS)
@dataclass(frozen=True)
class Recipe:
    """The values of a recipe; None, on the command line only, for what is not given.

    Attributes:
        num_instances: N, rows that share one pass of the encoder.
        max_length: L, tokens of a row, [CLS] and [SEP] included; longer rows are cut.
        vocab_size: Entries of the tokenizer that is trained on the task's text.
        hidden_size: d, width of the encoder.
        num_layers: Layers of the encoder.
        num_heads: Attention heads of the encoder.
        intermediate_size: Width of the encoder's feed-forward layers.
        start_from_neighbours: Make each head of a new encoder's first layer begin by looking at a neighbouring
            position: for characters, which say little one by one.
        shallow_layers: Layers of the variant shallow: the plain encoder with fewer of them.
        narrow_size: Width of the variant narrow: the plain encoder with less of it, its feed-forward layers in
            proportion.
        narrow_layers: Layers of the variant narrow.
        joined_row_layers: Layers of the variant joined that run on every position; the others run on N positions
            averaged.
        dropout: Dropout of the plain encoder and its head.
        mux_dropout: Dropout of the multiplexed models' encoder and head in the task stage (0 in the retrieval
            warm-up): the rows that share a pass disturb each other as it is.
        multiplexer: How rows are joined: one of {multiplexers}.
        retrieval_rows: Rows of a warm-up step, on each device; a multiple of N.
        retrieval_steps: Steps of the retrieval warm-up; 0 leaves it out.
        unbind_retrieval_steps: The same for the demultiplexer unbind, which needs fewer.
        retrieval_learning_rate: Peak learning rate of the retrieval warm-up.
        task_rows: Rows of a task step, on each device; a multiple of N. The same for every variant.
        task_epochs: Epochs of the plain encoder's task stage.
        mux_task_epochs: Epochs of the multiplexed encoders' task stage, N of which cost as many encoder passes as
            one plain epoch.
        plain_learning_rate: Peak learning rate of the plain encoder's task stage.
        mux_learning_rate: Peak learning rate of the multiplexed encoders' task stage.
        group_by_length: Draw batches of rows of like length in the task stage.
        retrieval_loss_weight: Lambda: the task stage's loss is (1 - lambda) * task + lambda * retrieval.
        task_retrieval_percentage: Share, in (0, 1], of the positions at which the task stage's retrieval loss asks.
        distillation_weight: Share of the multiplexed models' task loss that is distillation from the plain encoder,
            if that is among --variants; 0 for none.
        distillation_temperature: Temperature of the distillation.
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


def read_recipe(name: str) -> Recipe:
    """A recipe by name, or from a YAML file with a value for each field of `Recipe`; or with some values and ``base``,
    the name of a recipe that has the others.

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
