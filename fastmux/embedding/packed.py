"""Models that embed, on packed rows: the pooling of each row's own positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from fastmux.passes.packed_model import PackedForm
from fastmux.passes.packing import PackedRows
from fastmux.passes.tokens import ranges


class PackedEmbedding:
    """See `fastmux.passes.packed_model.PackedForm`.

    Args:
        model: The `fastmux.embedding.model.EmbeddingModel`.
        encoder: How its encoder runs packed rows.
    """

    def __init__(self, model: Any, encoder: PackedForm):
        self.model, self.encoder = model, encoder
        self.head_width = encoder.head_width

    def arrays(self, rows: PackedRows) -> dict[str, np.ndarray]:
        """See `PackedForm`."""
        config = self.model.embedding_config
        starts, lengths = rows.row_starts.ravel(), rows.lengths.ravel()
        skipped = np.minimum(0 if config.include_prompt else self.model.prompt_length, lengths)
        counted = lengths - skipped
        found = self.encoder.arrays(rows)
        if config.pooling == "mean":
            pooled = {"pooled": ranges(starts + skipped, counted), "bags": np.cumsum(counted) - counted}
        elif config.pooling == "cls":
            pooled = {"pooled": starts + np.where(counted, skipped, 0)}
        else:
            pooled = {"pooled": starts + np.maximum(0, lengths - 1)}
        return found | pooled

    def answers(self, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        """See `PackedForm`; the answers are vectors (G * N, D)."""
        states = self.encoder.answers(given, rows).flatten(0, 1)
        if self.model.embedding_config.pooling == "mean":
            # In half precision, too, it adds up in float32.
            return self.model.behind(nn.functional.embedding_bag(given["pooled"], states, given["bags"], mode="mean"))
        return self.model.behind(states.index_select(0, given["pooled"]))
