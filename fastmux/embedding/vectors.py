"""Turn what a model returns into columns of vectors: truncated, normalised, and in the type that is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow

from fastmux.passes.tokens import Tokens

#: The types of stored numbers.
STORED = ("float32", "float16", "int8")
#: The new columns; the second one goes with int8.
EMBEDDING, SCALE = "embedding", "embedding_scale"
_LEVELS = 127


@dataclass(frozen=True)
class Vectors:
    """How vectors become columns.

    Args:
        size: The numbers of a vector of the model.
        truncate_dim: The numbers that are kept; all if None.
        normalize: Divide by the length, after that.
        stored_as: One of `STORED`.
        prefix: Put before the names of the columns.

    Raises:
        ValueError: More numbers are to be kept than there are.
    """

    size: int
    truncate_dim: int | None = None
    normalize: bool = False
    stored_as: str = "float32"
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.truncate_dim is not None and self.truncate_dim > self.size:
            raise ValueError(f"truncate_dim is {self.truncate_dim}, but the model's vectors have {self.size} numbers")

    @property
    def dimension(self) -> int:
        """The numbers of a stored vector."""
        return self.truncate_dim or self.size

    def columns(self) -> dict[str, pyarrow.DataType]:
        """The names and types of the new columns."""
        found = {EMBEDDING: pyarrow.list_(pyarrow.from_numpy_dtype(self.stored_as), self.dimension)}
        if self.stored_as == "int8":
            found[SCALE] = pyarrow.float32()
        return {self.prefix + name: kind for name, kind in found.items()}

    def of(self, logits: np.ndarray, tokens: Tokens) -> dict[str, pyarrow.Array]:
        """The new columns of the model's vectors (rows, D)."""
        vectors = self.finished(logits)
        made = [vectors]
        if self.stored_as == "int8":
            made = [*quantized(vectors)]
        elif self.stored_as == "float16":
            made = [vectors.astype(np.float16)]
        arrays = [
            pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(one).reshape(-1)), type=kind)
            if one.ndim == 2
            else pyarrow.array(one)
            for one, kind in zip(made, self.columns().values(), strict=True)
        ]
        return dict(zip(self.columns(), arrays, strict=True))

    def finished(self, vectors: np.ndarray) -> np.ndarray:
        """The model's vectors (rows, D), truncated and normalised: float32."""
        kept = vectors[:, : self.truncate_dim].astype(np.float32)
        if self.normalize:
            kept /= np.maximum(np.linalg.norm(kept, axis=-1, keepdims=True), 1e-12)
        return kept


def quantized(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (rows, D) as int8 (rows, D) and a scale for each, float32 (rows): ``vectors = int8 * scale``, up to half
    a scale.

    The scale of a vector is its largest number without its sign, divided by 127. No other row takes part in it.

    Example:
        >>> import numpy as np
        >>> from fastmux.embedding.vectors import quantized
        >>> numbers, scales = quantized(np.array([[0.5, -1.27], [0.0, 0.0]], np.float32))
        >>> numbers.tolist(), [round(scale, 4) for scale in scales.tolist()]
        ([[50, -127], [0, 0]], [0.01, 0.0])
    """
    scales = (np.abs(vectors).max(-1) / _LEVELS).astype(np.float32)
    divided = vectors / np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.round(divided), -_LEVELS, _LEVELS).astype(np.int8), scales
