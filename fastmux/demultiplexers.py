"""Demultiplexers: one sequence of hidden states in, N sequences out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.configuration import TMuxConfig
from fastmux.registry import Registry

DEMULTIPLEXERS = Registry("demultiplexer")


class Demultiplexer(nn.Module):
    """Recovers N hidden sequences. `has_prefix` says whether the encoder must run on an index prefix for it."""

    has_prefix = False

    def __init__(self, config: TMuxConfig):
        super().__init__()
        self.num_instances, self.width = config.num_instances, config.hidden_size
        self.layer_norm = nn.LayerNorm(self.width, eps=config.layer_norm_eps)

    def forward(
        self,
        h: Tensor,
        prefix_states: Tensor | None,
        transforms: Tensor,
        instances: Tensor | None = None,
        head: nn.Linear | None = None,
    ) -> Tensor:
        """Args:
            h: (G, L, d), hidden states at the positions wanted.
            prefix_states: (G, N, d), hidden states at the index prefix; None where `has_prefix` is False.
            transforms: the multiplexer's (N, d) or (N, d, d).
            instances: (G, L), the one instance wanted at each position; all N if None.
            head: a linear layer (d -> C) to apply while the states are at hand.

        Returns:
            (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it demultiplexes")

    def _after_dense(self, instances: Tensor | None, head: nn.Linear | None) -> dict:
        """What every demultiplexing op takes behind its first linear layer."""
        return {
            "ln_weight": self.layer_norm.weight,
            "ln_bias": self.layer_norm.bias,
            "eps": self.layer_norm.eps,
            "instances": instances,
            "head_weight": None if head is None else head.weight,
            "head_bias": None if head is None else head.bias,
        }

    def reset_parameters(self) -> None:
        """Initialise what is neither a Linear nor a LayerNorm."""


@DEMULTIPLEXERS.register("index")
class IndexDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W [p_i ; h_j] + b))`` with p_i the encoder's output at the index prefix (DataMUX, section 3.2)."""

    has_prefix = True

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self.dense = nn.Linear(2 * self.width, self.width)

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        dense = (self.dense.weight, self.dense.bias)
        return F.index_demux(h, prefix_states, *dense, **self._after_dense(instances, head))


@DEMULTIPLEXERS.register("key")
class KeyDemultiplexer(IndexDemultiplexer):
    """`IndexDemultiplexer` with learned keys in place of index states, and no prefix (MUX-PLM, section 3, "RSA")."""

    has_prefix = False

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self.instance_keys = nn.Parameter(torch.empty(self.num_instances, self.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states beside them

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        return super().forward(h, self.instance_keys, transforms, instances, head)


@DEMULTIPLEXERS.register("unbind")
class UnbindDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W (v_i * h_j) + b))`` with the multiplexer's own v_i, or O_i^T h_j: the inverse of the binding.

    Raises:
        ValueError: if the encoder's embeddings and hidden states differ in width, so that one transform cannot serve
        both.
    """

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        if config.embedding_size != config.hidden_size:
            raise ValueError(
                f"demultiplexer 'unbind' applies the multiplexer's transforms, of width embedding_size = "
                f"{config.embedding_size}, to hidden states of width hidden_size = {config.hidden_size}; the two must "
                "be equal. Use 'index' or 'key' with this encoder."
            )
        self.dense = nn.Linear(self.width, self.width) if config.unbind_linear else None

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        dense = (self.dense.weight, self.dense.bias) if self.dense is not None else (None, None)
        return F.unbind_demux(h, transforms, *dense, **self._after_dense(instances, head))
