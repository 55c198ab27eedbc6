"""How rows are embedded."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.embedding.config import POOLINGS
from fastmux.embedding.vectors import STORED
from fastmux.labelling.settings import RowSettings
from fastmux.settings import integer, one_of


@dataclass(frozen=True)
class EmbeddingSettings(RowSettings):
    """How rows are embedded: what `RowSettings` has, and what is about vectors.

    Attributes:
        max_length: The tokens at which a text is cut. By default where the model says.
        prompt_name: The name of the prompt that is put before each text, of those that the model knows. By default the
            model's own default, if it has one.
        prompt: The prompt itself; an empty one for none.
        truncate_dim: Keep only so many first numbers of each vector, of a model that was trained for that (Matryoshka).
            By default as the model says.
        normalize: Divide each vector by its length, after it was truncated.
        stored_as: The type of the numbers: float32, float16, or int8, where a vector is its 8-bit numbers times a scale
            of its own, in the column embedding_scale.
        pooling: How the states of an encoder become a vector, if its folder does not say: mean, cls or lasttoken.
    """

    prompt_name: str | None = None
    prompt: str | None = None
    truncate_dim: int | None = integer(None, 1)
    normalize: bool = False
    stored_as: str = one_of("float32", STORED)
    pooling: str | None = one_of(None, POOLINGS)
