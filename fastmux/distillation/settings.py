"""How a model is converted."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.joins import JOINS
from fastmux.settings import check_fields, integer, number, one_of

#: The settings that, beside N, say of which layers a converted model is made: arguments of ``from_backbone``.
STRUCTURE = ("join", "row_layers", "last_layers", "first_layers", "joined_layers")
#: The settings that say how much of each layer is kept: arguments of `fastmux.distillation.narrow.narrowed_for`.
WIDTHS = ("ffn_width", "attention_width")


@dataclass(frozen=True)
class ConversionSettings:
    """How a model is converted.

    Attributes:
        num_instances: N, the number of states that share a pass of the joined layers. 1 joins nothing: the result is a
            plain encoder, with fewer layers where ``joined_layers`` says so.
        join: What is joined: N neighbouring "positions" of a row; N "rows" of the batch at each position; "pooled",
            positions that are not separated again, for a head that reads one position; or "feed_forward", positions in
            the feed-forward layers alone, while attention runs at every position.
        row_layers: How many layers run on every state before the joined ones.
        last_layers: How many layers run on every state after the joined ones.
        first_layers: How many of the last layers run at the first position alone, for a model whose head reads no
            other. 1 is exact. Further ones save time, and see the other positions as they were before these layers.
        joined_layers: The numbers of the original's layers that run joined, ascending. By default all between the row
            layers and the last layers.
        ffn_width: The share of the neurons that each feed-forward layer keeps, above 0, up to 1. They are the ones that
            the text needs most.
        attention_width: The share of the heads that each attention layer keeps, in the same way.
        max_length: The most tokens of a row. Longer rows are cut.
        num_train_epochs: How often training goes through the text.
        learning_rate: The peak learning rate, which is reached after a tenth of the steps.
        state_weight: The weight of the hidden states' error in the loss; that of the labels has weight 1.
        per_device_train_batch_size: How many rows a training step has.
        seed: The seed for all that is random: the order of rows, signs, and which rows are kept apart.
    """

    num_instances: int = integer(2, 1)
    join: str = one_of("positions", JOINS)
    row_layers: int = integer(1, 0)
    last_layers: int = integer(1, 0)
    first_layers: int = integer(1, 0)
    joined_layers: tuple[int, ...] | None = integer(None, 0)
    ffn_width: float = number(1.0, 0, 1, above=True)
    attention_width: float = number(1.0, 0, 1, above=True)
    max_length: int = integer(128, 1)
    num_train_epochs: float = number(3.0, above=True)
    learning_rate: float = number(3e-4, above=True)
    state_weight: float = number(1.0)
    per_device_train_batch_size: int = integer(64, 1)
    seed: int = integer(0, 0)

    def __post_init__(self) -> None:
        check_fields(self)
