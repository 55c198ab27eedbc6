"""T-MUX on packed rows: groups end to end, each with its own prefix and positions, none padded to another's length.

Multiplexers that are linear at each position take all groups as one. So do demultiplexers at the positions of tokens,
unless they read a prefix's states, which are each group's own: for these, and for means over rows, groups of like
length are put side by side again, at most `_LIKE` times padded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from fastmux.models.encoders import embeddings_of
from fastmux.models.multiplexed_pass import MultiplexedPass
from fastmux.modules.is_plain import is_plain, tensor_of
from fastmux.modules.multiplexer import LinearMultiplexer
from fastmux.passes.packed_model import can_pack_encoder, run_embeddings
from fastmux.passes.packing import PackedRows, ends
from fastmux.passes.sequences import Asked, Sequences, run_at, run_layers
from fastmux.passes.tokens import ranges

#: Groups that are put side by side are at least this share of their longest.
_LIKE = 0.8


def packed_tmux(model: Any, tmux: Any) -> PackedTMux | None:
    """How a model runs packed rows that is a T-MUX, or a head on one; None if it only runs padded ones."""
    backbone, multiplexer = tmux.backbone, tmux.multiplexer
    if not isinstance(multiplexer, LinearMultiplexer) or tmux.config.conventions.attend_padding:
        return None
    if type(multiplexer).from_embeddings is not LinearMultiplexer.from_embeddings:
        return None
    if not type(backbone).__module__.startswith("transformers.models.") or not can_pack_encoder(backbone):
        return None
    return PackedTMux(model, tmux) if all(is_plain(one, type(one)) for one in (model, tmux)) else None


class PackedTMux:
    """See `fastmux.passes.packed_model.PackedForm`.

    Args:
        model: A T-MUX for sequence or token classification, or without a head.
        tmux: The `fastmux.TMux` in it.
    """

    def __init__(self, model: Any, tmux: Any):
        self.model, self.tmux = model, tmux
        self.head_width: int = tmux.backbone.encoder.layer[0].attention.self.attention_head_size
        self.prefix = tmux.config.prefix_length
        self.has_head = model is not tmux
        of_rows = self.has_head and not model.labels_of_tokens
        self.reads_mean = of_rows and tmux.config.sequence_summary == "mean"
        self.reads_first = of_rows and not self.reads_mean
        self.by_groups = self.reads_mean or (bool(self.prefix) and not self.reads_first)

    def arrays(self, rows: PackedRows) -> dict[str, np.ndarray]:
        """See `PackedForm`."""
        adapter, conventions = embeddings_of(self.tmux.backbone), self.tmux.config.conventions
        last, sizes = adapter.end_position - 1, rows.sizes + self.prefix
        ids = rows.ids
        if conventions.first_token_id is not None:
            ids = ids.copy()
            ids[:, rows.starts] = conventions.first_token_id
        begin, place = np.cumsum(sizes) - sizes, ranges(np.zeros_like(sizes), sizes)
        found = {
            "input_ids": ids,
            "position_ids": rows.positions(adapter.first_position + self.prefix, last, adapter.pad_id),
            # What the encoder, which adds positions to what is multiplexed, counts.
            "places": np.minimum(place + adapter.first_position, last),
            "ends": ends(sizes),
        }
        if rows.types is not None and not conventions.ignore_token_types:
            found["token_type_ids"] = rows.types
        if self.prefix:
            content = np.repeat(rows.starts, sizes) + place  # counted from the end of the prefix
            found["laid"] = np.where(place < self.prefix, place, content)
        if self.reads_first or self.prefix:
            count = self.prefix or 1
            found["first"] = ranges(begin, np.full_like(begin, count))
            found["each"] = count * np.arange(len(begin) + 1)
        if self.by_groups:
            found |= self._side_by_side(rows, begin + self.prefix)
        return found

    def _side_by_side(self, rows: PackedRows, begin: np.ndarray) -> dict[str, np.ndarray]:
        """Where the contents of groups are found that are put side by side, run by run, and how they are put back.
        Groups begin (G) after their prefixes."""
        order = np.argsort(-rows.sizes, kind="stable")
        widths = np.concatenate([np.full(len(run), rows.sizes[run[0]]) for run in _runs(rows)])
        inside = np.minimum(ranges(np.zeros_like(widths), widths), np.repeat(rows.sizes[order], widths) - 1)
        found = {"order": order, "content": np.repeat(begin[order], widths) + inside}
        if self.reads_mean:
            return found | {"back": np.argsort(order), "lengths": rows.lengths[order]}
        there = np.empty_like(order)
        there[order] = np.cumsum(widths) - widths
        return found | {"back": ranges(there, rows.sizes)}

    def answers(self, given: dict[str, Tensor], rows: PackedRows) -> Tensor:
        """See `PackedForm`."""
        x = self._embedded(given)
        layers = self.tmux.backbone.encoder.layer
        sequences = Sequences(given["ends"], int(rows.sizes.max()) + self.prefix)
        if self.reads_first:
            asked = Asked(given["first"], Sequences(given["each"], self.prefix or 1))
            states = run_at(layers[-1], run_layers(layers[:-1], x, sequences), sequences, asked)
            states = states.unflatten(0, (len(rows.sizes), -1))
            mux = self._pass(states[:, -1:], states[:, :-1] if self.prefix else None)
            return self.model._logits(mux, mux.summary).squeeze(1)
        states = run_layers(layers, x, sequences)
        prefix = None
        if self.prefix:
            prefix = states.index_select(0, given["first"]).unflatten(0, (len(rows.sizes), self.prefix))[:, :-1]
        if not self.by_groups:
            return self._of_tokens(self._pass(states[None], None))
        passes = self._passes(states, prefix, given, rows)
        if self.reads_mean:
            means = torch.cat([self.model._mean_state(mux) for mux in passes])
            means = means.unflatten(0, rows.lengths.shape).index_select(0, given["back"]).flatten(0, 1)
            return self.model.classifier(self.model.dropout(means))
        n = self.tmux.num_instances
        found = [self._of_tokens(mux).unflatten(0, (-1, n)).transpose(0, 1).flatten(1, 2) for mux in passes]
        return torch.cat(found, 1).index_select(1, given["back"])

    def _embedded(self, given: dict[str, Tensor]) -> Tensor:
        """What the layers are given: the multiplexed embeddings of groups end to end, with their prefixes, (T', d)."""
        tmux, backbone = self.tmux, self.tmux.backbone
        adapter, multiplexer = embeddings_of(backbone), self.tmux.multiplexer
        ids, positions, types = given["input_ids"][None], given["position_ids"], given.get("token_type_ids")
        positions = positions if positions.dim() == 1 else positions[None]
        # Zeros that the op makes itself are kept for each length, of which there is no end here.
        types = ids.new_zeros(ids.shape[-1]) if types is None else types[None]
        x = tmux._multiplex(adapter, ids, None, positions, types, None, None)[0]
        if self.prefix:
            own = multiplexer.own_prefix(partial(tmux._embedded_prefix, adapter, ids.device), x)
            x = torch.cat([own, x]).index_select(0, given["laid"])
        return run_embeddings(backbone, given["places"][None], inputs_embeds=x[None])

    def _passes(
        self, states: Tensor, prefix: Tensor | None, given: dict[str, Tensor], rows: PackedRows
    ) -> Iterator[MultiplexedPass]:
        """The groups side by side, run by run; states (T', d), prefix (G, N, d)."""
        content = states.index_select(0, given["content"])
        prefix = None if prefix is None else prefix.index_select(0, given["order"])
        done = at = 0
        for run in _runs(rows):
            count, width = len(run), int(rows.sizes[run[0]])
            mask = None
            if self.reads_mean:
                lengths = given["lengths"][done : done + count, :, None]
                mask = torch.arange(width, device=lengths.device) < lengths
            own = None if prefix is None else prefix[done : done + count]
            yield self._pass(content[at : at + count * width].unflatten(0, (count, width)), own, mask)
            done, at = done + count, at + count * width

    def _pass(self, content: Tensor, prefix: Tensor | None, mask: Tensor | None = None) -> MultiplexedPass:
        """A pass's states as heads read them: content (G, L, d), prefix (G, N, d), mask (G, N, L)."""
        applied = self.tmux.demultiplexer.takes_transforms
        return MultiplexedPass(
            content=content,
            prefix_states=prefix,
            transforms=tensor_of(self.tmux.multiplexer, "transforms") if applied else None,
            summary=content,
            rows=content.shape[0] * self.tmux.num_instances,
            input_ids=None,
            attention_mask=mask,
            encoder_outputs=BaseModelOutput(),
        )

    def _of_tokens(self, mux: MultiplexedPass) -> Tensor:
        """The logits, or states, of a pass's content (G, L, d): (G * N, L, C)."""
        if self.has_head:
            return self.model._logits(mux, mux.content)
        return self.tmux.demultiplex(mux, mux.content)


def _runs(rows: PackedRows) -> list[np.ndarray]:
    """The groups that are put side by side, the longest first."""
    order, sizes = np.argsort(-rows.sizes, kind="stable"), np.sort(-rows.sizes)
    cuts = [0]
    while cuts[-1] < len(order):
        cuts.append(int(np.searchsorted(sizes, _LIKE * sizes[cuts[-1]], side="right")))
    return [order[a:b] for a, b in itertools.pairwise(cuts)]
