"""Models whose deeper layers run on joined states, on packed rows.

Windows of neighbours lie end to end as rows do, and their means are one `embedding_bag`. Rows that are joined lie end
to end one by one in the layers around, and as groups in the joined ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastmux.models.joined_encoder import JoinedEncoder
from fastmux.models.windows import feed_forward_change
from fastmux.passes.packed_model import PackedModel, laid_out
from fastmux.passes.packing import PackedRows, ends
from fastmux.passes.sequences import Asked, Sequences, attention, run_at, run_layers
from fastmux.passes.tokens import ranges


class PackedJoined(PackedModel):
    """See `fastmux.passes.packed_model.PackedForm`.

    Args:
        model: The model of transformers whose encoder is a `JoinedEncoder`.
    """

    def __init__(self, model: Any):
        super().__init__(model)
        self.encoder: JoinedEncoder = self.base.encoder
        self.join = self.encoder.join if self.encoder.num_instances > 1 else None

    @classmethod
    def _runs(cls, base: Any) -> bool:
        return type(base.encoder) is JoinedEncoder

    def arrays(self, rows: PackedRows) -> dict[str, np.ndarray]:
        found = super().arrays(rows)
        if self.join == "rows":
            return self._one_by_one(found, rows)
        return found if self.join is None else found | self._windows(rows)

    def _windows(self, rows: PackedRows) -> dict[str, np.ndarray]:
        """Where windows begin, and the window of each position: the first of a row is a window of its own."""
        n, place = self.encoder.num_instances, rows.place_in_group
        of_row = (place + n - 1) // n
        counts = (rows.sizes + 2 * n - 2) // n
        begin = np.cumsum(counts) - counts
        return {
            "windows": np.flatnonzero((place == 0) | (place % n == 1)),
            "window": np.repeat(begin, rows.sizes) + of_row,
            "window_ends": ends(counts),
            "window_starts": begin,
        }

    def _one_by_one(self, found: dict[str, np.ndarray], rows: PackedRows) -> dict[str, np.ndarray]:
        """The arrays of rows that lie end to end one by one, slot after slot of each group."""
        own, (n, total) = np.maximum(1, rows.lengths).ravel(), rows.ids.shape
        there = ranges(rows.row_starts.ravel(), own)
        back = np.zeros(n * total, np.int64)
        back[there] = np.arange(len(there))
        together = there % total
        order = np.argsort(together, kind="stable")
        each = {name: found[name] for name in ("input_ids", "position_ids", "token_type_ids") if name in found}
        return {name: np.broadcast_to(array, (n, total)).ravel()[there][None] for name, array in each.items()} | {
            "ends": ends(own),
            "starts": np.cumsum(own) - own,
            "each": np.arange(len(own) + 1),
            "groups": ends(rows.sizes),
            "group_position": together,
            "instance": there // total,
            "joined": order,
            "joined_starts": np.searchsorted(together[order], np.arange(total)),
            "back": back.reshape(n, total),
        }

    def answers(self, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        found = super().answers(given, rows)
        if self.join != "rows" or not self.of_tokens:
            return found
        return found[0].index_select(0, given["back"].flatten()).view(*given["back"].shape, -1)

    def encode(self, x: Tensor, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        if self.join == "rows":
            longest = max(1, int(rows.lengths.max()))
            sequences = Sequences(given["ends"], longest)
            first = Asked(given["starts"], Sequences(given["each"], 1))
        else:
            sequences, first = laid_out(given, rows)
        if self.join is None:
            return self._last(self.encoder.layer, x, sequences, first)
        return getattr(self, f"_run_{self.join}")(x, given, rows, sequences, first)

    def _run_positions(self, x, given, rows, sequences, first) -> Tensor:
        before, joined, last = self.encoder._parts()
        own = run_layers(before, x, sequences)
        deep = run_layers(joined, _means(own, given), self._window_sequences(given, rows))
        back = self.encoder.dense(deep).index_select(0, given["window"])
        return self._last(last, self.encoder.layer_norm(back + own), sequences, first)

    def _run_rows(self, x, given, rows, sequences, first) -> Tensor:
        encoder = self.encoder
        before, joined, last = encoder._parts()
        own = run_layers(before, x, sequences)
        signs = encoder.signs.index_select(0, given["instance"])
        groups = nn.functional.embedding_bag(given["joined"], own * signs, given["joined_starts"], mode="sum")
        deep = run_layers(
            joined, groups / math.sqrt(encoder.num_instances), Sequences(given["groups"], int(rows.sizes.max()))
        )
        back = encoder.dense(deep.index_select(0, given["group_position"]) * signs)
        return self._last(last, encoder.layer_norm(back + own), sequences, first)

    def _run_pooled(self, x, given, rows, sequences, first) -> Tensor:
        encoder = self.encoder
        own = run_layers(encoder.layer[: encoder.row_layers], x, sequences)
        windows = Asked(given["window_starts"], first.sequences)
        deep = self._last(
            encoder.layer[encoder.row_layers :], _means(own, given), self._window_sequences(given, rows), windows
        )
        return deep if encoder.first_only else deep.index_select(0, given["window"])

    def _run_feed_forward(self, x, given, rows, sequences, first) -> Tensor:
        before, joined, last = self.encoder._parts()
        x = run_layers(before, x, sequences)
        for layer in joined:
            attended = attention(layer, x, sequences)
            change = feed_forward_change(layer, _means(attended, given))
            x = layer.output.LayerNorm(change.index_select(0, given["window"]) + attended)
        return self._last(last, x, sequences, first)

    def _window_sequences(self, given: dict[str, Tensor], rows: PackedRows) -> Sequences:
        n = self.encoder.num_instances
        return Sequences(given["window_ends"], (int(rows.sizes.max()) + 2 * n - 2) // n)

    def _last(self, layers: nn.ModuleList, x: Tensor, sequences: Sequences, first: Asked) -> Tensor:
        """Runs the last layers; of a model that reads the first positions alone, the final ones there only, and
        returns the states there."""
        full = max(0, len(layers) - self.encoder.first_layers)
        x = run_layers(layers[:full], x, sequences)
        at_first = layers[full:]
        for layer in at_first[:-1]:
            x = x.index_copy(0, first.index.long(), run_at(layer, x, sequences, first))
        if at_first:
            return run_at(at_first[-1], x, sequences, first)
        return x.index_select(0, first.index) if self.encoder.first_only else x


def _means(x: Tensor, given: dict[str, Tensor]) -> Tensor:
    """The means (W, d) of windows of states (T, d)."""
    places = torch.arange(len(x), device=x.device, dtype=given["windows"].dtype)
    return nn.functional.embedding_bag(places, x, given["windows"], mode="mean")
