"""How the states of an encoder become one vector, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

#: How states (B, L, d) become one (B, d): the mean of a row's tokens, its first one, or its last one.
POOLINGS = ("mean", "cls", "lasttoken")
#: The activations of dense layers, by their names in `torch.nn`.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True)
class DenseLayer:
    """A layer behind the pooling: ``activation(W x + b)``.

    Args:
        in_features, out_features: Its widths.
        bias: It has b.
        activation: One of `ACTIVATIONS`.
    """

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "Tanh"


@dataclass(frozen=True)
class Normalize:
    """The vector is divided by its length."""


Step: TypeAlias = "DenseLayer | Normalize"


@dataclass(frozen=True)
class EmbeddingConfig:
    """All that a folder of sentence-transformers says beside its encoder.

    Args:
        pooling: One of `POOLINGS`.
        include_prompt: The tokens of a prompt are pooled as well.
        steps: What comes behind the pooling, in order.
        max_seq_length: The tokens at which a text is cut; None if only the tokenizer and the encoder say.
        do_lower_case: Text is lower-cased first.
        prompts: What is put before a text, by name.
        default_prompt_name: The prompt of a text of which nothing is said.
        similarity_fn_name: How vectors are meant to be compared: "cosine", "dot", "euclidean" or "manhattan".
        truncate_dim: The numbers of a vector that are kept, the first ones; all if None.

    Raises:
        ValueError: The pooling or an activation is not known.
    """

    pooling: str = "mean"
    include_prompt: bool = True
    steps: tuple[Step, ...] = ()
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}")
        for layer in self.dense:
            if layer.activation not in ACTIVATIONS:
                raise ValueError(f"activation is {layer.activation!r}, expected one of {', '.join(ACTIVATIONS)}")

    @property
    def dense(self) -> tuple[DenseLayer, ...]:
        """The dense layers among the steps."""
        return tuple(step for step in self.steps if isinstance(step, DenseLayer))

    @property
    def normalizes(self) -> bool:
        """Whether its vectors have length 1."""
        return bool(self.steps) and isinstance(self.steps[-1], Normalize)

    def prompt(self, name: str | None = None) -> str:
        """The prompt of that name, or the default one; empty if there is none.

        Raises:
            ValueError: There is no prompt of that name.
        """
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"prompt_name is {name!r}, but the model has the prompts: {known}")
        return self.prompts[name] or ""

    def prompt_of(self, name: str | None, prompt: str | None) -> str:
        """The prompt that is asked for by its name or its text; the default one if nothing is said.

        Raises:
            ValueError: There is none of that name, or both are given.
        """
        if prompt is not None and name is not None:
            raise ValueError(f"prompt is {prompt!r} and prompt_name {name!r}; give one of them")
        return self.prompt(name) if prompt is None else prompt
