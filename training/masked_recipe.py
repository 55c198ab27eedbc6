"""The recipe of ``superposed.py``: sizes, rates and the ways to spend the time, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastmux.settings import check_fields, integer, number
from fastmux.training.recipe import RECIPES
from fastmux.training.settings import build, read_yaml, typed
from fastmux.training.superposing import Way

PLAIN = "plain"


@dataclass(frozen=True)
class MaskedRecipe:
    """The values of a recipe.

    Attributes:
        max_length: The tokens of a row, [CLS] and [SEP] included; every N of ways that join positions divides it.
        vocab_size: The size of the vocabulary, which is made of the text.
        hidden_size, num_layers, num_heads, intermediate_size: The sizes of the BERT.
        sequences: The sequences in a step's pass, of N rows each where rows share it.
        learning_rate: The peak rate.
        masked_share: The share of the tokens that are to be said.
        warm_up: The share of the time over which the rate rises.
        decay: The share of the time, its last, over which the rate falls to 0.
        recovery: The share of the time, its last, in which nothing is superposed.
        ways: The ways to train, by name; "plain" is what the others are compared with.
    """

    max_length: int = integer(64, 4)
    vocab_size: int = integer(8192, 300)
    hidden_size: int = integer(256, 1)
    num_layers: int = integer(4, 1)
    num_heads: int = integer(4, 1)
    intermediate_size: int = integer(1024, 1)
    sequences: int = integer(32, 1)
    learning_rate: float = number(1e-3, above=True)
    masked_share: float = number(0.15, 0, 1, above=True, below=True)
    warm_up: float = number(0.05, 0, 1, below=True)
    decay: float = number(0.2, 0, 1, above=True)
    recovery: float = number(0.1, 0, 1, above=True, below=True)
    ways: Mapping[str, Way] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size is {self.hidden_size}, expected a multiple of num_heads, {self.num_heads}")

    def rate(self, done: float) -> float:
        """The learning rate when this share of the time is over.

        Example:
            >>> from fastmux.training.masked_recipe import MaskedRecipe
            >>> recipe = MaskedRecipe(learning_rate=1.0, warm_up=0.1, decay=0.2)
            >>> [round(recipe.rate(done), 2) for done in (0.05, 0.5, 0.9, 1.0)]
            [0.5, 1.0, 0.5, 0.0]
        """
        rising = done / self.warm_up if self.warm_up else 1.0
        return self.learning_rate * max(0.0, min(1.0, rising, (1 - done) / self.decay))


def read_masked_recipe(name: str) -> MaskedRecipe:
    """Reads a recipe by its name in ``training/recipes/masked``, or from a YAML file.

    Raises:
        ValueError: There is no such recipe; a key is unknown (the message has the closest known one) or has a value of
            another type or out of range; no way is named "plain", or it shares passes.
    """
    path, values = read_yaml(RECIPES / "masked", name, "recipe")
    entries = typed(str(path), "ways", values.pop("ways", {PLAIN: {}}), dict)
    ways = {}
    for key, own in entries.items():
        ways[str(key)] = build(Way, typed(str(path), key, own, dict), f"{path}: {key}", "way")
    if ways.get(PLAIN) != Way():
        raise ValueError(f"{path}: ways must have an entry 'plain: {{}}', with which the others are compared")
    recipe = build(MaskedRecipe, values, str(path), "recipe", ways=ways)
    for key, way in ways.items():
        if way.join == "positions" and recipe.max_length % way.num_instances:
            raise ValueError(
                f"{path}: max_length is {recipe.max_length}, expected a multiple of num_instances, which is "
                f"{way.num_instances} of {key}"
            )
    return recipe
