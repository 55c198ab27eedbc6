"""An encoder whose first layers run on every state, and whose deeper layers run on N states joined into one.

``join`` says what is joined. With e the states after the first layers:

    positions     y_0 = e_0,  y_(1 + j) = mean of the states at 1 + jN ... jN + N, padding left out
    rows          y_j = 1/sqrt(N) sum_i v_i * e_ij,  v_i in {-1, +1}^d, so that v_i * v_i = 1
    states        z_ij = LN(W s_ij + b + e_ij),  s_ij the joined layers' output at the state that e_ij went into
    pooled        y as of positions, and all further layers run on y: nothing is separated again
    feed_forward  a = attention of e, at every position;  e_i = LN(a_i + FFN(y_j)),  y_j the mean of a's window with i

The last layers run on z. The first position, which sequence tasks read, is not averaged. Each state's own e is added
back, so the joined layers need only compute what N states have in common. RevMUX (Xu et al., EMNLP 2024, section 3.1)
also runs the first layers on single rows; averaging neighbours is Funnel-Transformer's pooling (Dai et al., NeurIPS
2020, section 2.2), and TITE's (SIGIR 2025) where they stay averaged.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as EncoderOutput

from fastmux.models.last_layer import first_positions
from fastmux.models.masks import bidirectional_mask
from fastmux.models.windows import feed_forward_of_windows, join_windows, separate_windows


class JoinedEncoder(nn.Module):
    """Replaces the ``encoder`` of a BERT-like model.

    Args:
        layers: The layers to keep, in order. Each maps ``(states, attention_mask)`` to states.
        config: The encoder's config. Its attention implementation determines the form of masks.
        num_instances: N, the number of states that are joined into one. With 1 the encoder is a plain one.
        join: What is joined: "positions", "rows", "pooled" (positions that stay joined) or "feed_forward" (positions,
            in the feed-forward layers alone).
        row_layers: The number of layers that run on every state before the join.
        last_layers: The number of layers that run on every state after the join.
        first_only: Whether only the first position is returned, (B, 1, d), which is all that a sequence head reads. The
            last layer is then computed there only, which is exact.
        first_layers: The number of last layers that run at the first position only, if ``first_only``. One is exact.
            Each further one saves most of a layer's work, but sees the other positions as they were before it, which
            the model has to learn.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
        >>> bert = BertModel(config)
        >>> joined = JoinedEncoder(bert.encoder.layer, config, num_instances=2)
        >>> joined(torch.randn(3, 7, 32)).last_hidden_state.shape
        torch.Size([3, 7, 32])
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        config: PreTrainedConfig,
        *,
        num_instances: int,
        join: str = "positions",
        row_layers: int = 1,
        last_layers: int = 1,
        first_only: bool = False,
        first_layers: int = 1,
    ):
        super().__init__()
        self.layer = layers
        self.config = config
        self.num_instances, self.join = num_instances, join
        self.row_layers, self.last_layers = row_layers, last_layers
        self.first_only, self.first_layers = first_only, first_layers if first_only else 0
        if not self._separates:
            return
        width = config.hidden_size
        # The last layers expect states of the scale that the layer before them returns.
        self.layer_norm = copy.deepcopy(layers[len(layers) - 1 - last_layers].output.LayerNorm)
        like = {name: getattr(self.layer_norm.weight, name) for name in ("device", "dtype")}
        self.dense = nn.Linear(width, width, **like)
        if join == "rows":
            self.register_buffer("signs", torch.empty(num_instances, width, **like))
        self.reset_parameters()

    @property
    def _separates(self) -> bool:
        """Whether joined states are separated again, for which there are weights."""
        return self.num_instances > 1 and self.join in ("positions", "rows")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the signs anew and sets b = 0, W = I for positions, W = 0 for rows.

        Trained layers can process averaged neighbours, but not superposed rows. For rows their output would at first be
        noise, larger than the states that are added to it.
        """
        if not self._separates:
            return
        (nn.init.eye_ if self.join == "positions" else nn.init.zeros_)(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        if self.join == "rows" and not getattr(self.signs, "_is_hf_initialized", False):
            self.signs.copy_(2 * torch.randint_like(self.signs, 2) - 1)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs) -> EncoderOutput:
        """Maps hidden_states (B, L, d) to states (B, L, d), or (B, 1, d) with ``first_only``. attention_mask has the
        form of the attention implementation."""
        keep = _kept(attention_mask)
        if keep is not None and torch.compiler.is_exporting():
            # Of a slice, a program would ask how many rows it has, to know how it lies in memory.
            keep = keep.clone(memory_format=torch.contiguous_format)
        if self.num_instances == 1:
            states = self._last(self.layer, hidden_states, keep)
        else:
            states = getattr(self, f"_run_{self.join}")(hidden_states, keep)
        return EncoderOutput(last_hidden_state=states[:, :1] if self.first_only else states)

    def _run_positions(self, states: Tensor, keep: Tensor | None) -> Tensor:
        first, joined, last = self._parts()
        own = self._run(first, states, keep)
        deep = self._run(joined, *join_windows(own, keep, self.num_instances))
        # W before the copies: one product for each joined state.
        back = separate_windows(self.dense(deep), self.num_instances, own.shape[1])
        return self._last(last, self.layer_norm(back + own), keep)

    def _run_rows(self, states: Tensor, keep: Tensor | None) -> Tensor:
        first, joined, last = self._parts()
        rows = states.shape[0]  # len() would make it a constant of a traced graph
        if rows % self.num_instances:
            # The last group is filled with rows from the start of the batch, whose outputs are dropped.
            filled = torch.arange(-(-rows // self.num_instances) * self.num_instances, device=states.device)
            states = states[filled % rows]
            keep = None if keep is None else keep[filled % rows]
        own = self._run(first, states, keep)
        deep = self._run(joined, *self._join_rows(own, keep))
        back = self.dense(deep[:, None] * self.signs[:, None]).flatten(0, 1)
        return self._last(last, self.layer_norm(back + own), keep)[:rows]

    def _run_pooled(self, states: Tensor, keep: Tensor | None) -> Tensor:
        own = self._run(self.layer[: self.row_layers], states, keep)
        deep = self._last(self.layer[self.row_layers :], *join_windows(own, keep, self.num_instances))
        return deep if self.first_only else separate_windows(deep, self.num_instances, own.shape[1])

    def _run_feed_forward(self, states: Tensor, keep: Tensor | None) -> Tensor:
        first, joined, last = self._parts()
        states = self._run(first, states, keep)
        mask = bidirectional_mask(self.config, states, keep)
        for layer in joined:
            states = feed_forward_of_windows(layer, states, mask, keep, self.num_instances)
        return self._last(last, states, keep)

    def _parts(self) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
        """The layers before the join, the joined ones, and those after it."""
        behind = len(self.layer) - self.last_layers
        return self.layer[: self.row_layers], self.layer[self.row_layers : behind], self.layer[behind:]

    def _run(self, layers, states: Tensor, keep: Tensor | None) -> Tensor:
        mask = bidirectional_mask(self.config, states, keep)
        for layer in layers:
            states = layer(states, mask)
        return states

    def _last(self, layers, states: Tensor, keep: Tensor | None) -> Tensor:
        """Runs the last layers: on every state, the final ones at the first position only, whose state is then the only
        one that is returned."""
        full = max(0, len(layers) - self.first_layers)
        states = self._run(layers[:full], states, keep)
        for layer in layers[full:-1]:
            states = torch.cat([first_positions(layer, states, keep), states[:, 1:]], dim=1)
        return states if full == len(layers) else first_positions(layers[-1], states, keep)

    def _join_rows(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Joins rows: (G * N, L, d) -> (G, L, d), and a mask of positions where a row of the group is not padding."""
        n = self.num_instances
        x = x if keep is None else x * keep[..., None]
        joined = (x.unflatten(0, (-1, n)) * self.signs[:, None]).sum(1) / math.sqrt(n)
        return joined, None if keep is None else keep.unflatten(0, (-1, n)).any(1)

    def extra_repr(self) -> str:
        return (
            f"num_instances={self.num_instances}, join={self.join!r}, row_layers={self.row_layers}, "
            f"last_layers={self.last_layers}, first_only={self.first_only}, first_layers={self.first_layers}"
        )


def _kept(mask: Tensor | None) -> Tensor | None:
    """Converts a mask in the form of an attention implementation to one of positions (B, L), False at padding."""
    if mask is None:
        return None
    if mask.dim() == 4:
        mask = mask[:, 0, 0]  # the same for every query of an encoder
        return mask if mask.dtype == torch.bool else mask == 0
    return mask != 0
