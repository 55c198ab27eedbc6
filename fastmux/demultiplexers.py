"""Demultiplexers: one sequence of hidden states in, N sequences out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.configuration import TMuxConfig
from fastmux.multiplexers import Multiplexer
from fastmux.registry import Registry

DEMULTIPLEXERS = Registry("demultiplexer")


class Demultiplexer(nn.Module):
    """Recovers N hidden sequences. `has_prefix` says whether the encoder must run on an index prefix for it."""

    has_prefix = False

    def __init__(self, config: TMuxConfig):
        super().__init__()
        self.num_instances, self.width = config.num_instances, config.hidden_size
        self.layer_norm: nn.LayerNorm | None = nn.LayerNorm(self.width, eps=config.layer_norm_eps)

    def forward(
        self,
        h: Tensor,
        prefix_states: Tensor | None,
        multiplexer: Multiplexer,
        instances: Tensor | None = None,
        head: nn.Linear | None = None,
    ) -> Tensor:
        """Args:
            h: (G, L, d), hidden states at the positions wanted.
            prefix_states: (G, N, d), hidden states at the index prefix; None where `has_prefix` is False.
            multiplexer: what multiplexed them; its ``transforms`` are (N, d) or (N, d, d).
            instances: (G, L), the one instance wanted at each position; all N if None.
            head: a linear layer (d -> C) to apply while the states are at hand.

        Returns:
            (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it demultiplexes")

    def retrieve(
        self, h: Tensor, prefix_states: Tensor | None, multiplexer: Multiplexer, instances: Tensor | None = None
    ) -> Tensor:
        """The states that the retrieval head decodes: those of `forward`, unless a class says otherwise."""
        return self(h, prefix_states, multiplexer, instances)

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

    def forward(self, h, prefix_states, multiplexer, instances=None, head=None):
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

    def forward(self, h, prefix_states, multiplexer, instances=None, head=None):
        return super().forward(h, self.instance_keys, multiplexer, instances, head)


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

    def forward(self, h, prefix_states, multiplexer, instances=None, head=None):
        dense = (self.dense.weight, self.dense.bias) if self.dense is not None else (None, None)
        return F.unbind_demux(h, multiplexer.transforms, *dense, **self._after_dense(instances, head))


@DEMULTIPLEXERS.register("mlp")
class MlpDemultiplexer(Demultiplexer):
    """A linear layer and a LayerNorm of each instance's own: ``z_i = LN_i(GELU(W_i h_j + b_i))`` (DataMUX, section 3.2,
    "MLP demuxing"). No prefix."""

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self.layer_norm = None  # one affine for each instance instead
        self.eps = config.layer_norm_eps
        n, d = self.num_instances, self.width
        self.weight, self.bias = nn.Parameter(torch.empty(n, d, d)), nn.Parameter(torch.empty(n, d))
        self.ln_weight, self.ln_bias = nn.Parameter(torch.empty(n, d)), nn.Parameter(torch.empty(n, d))
        self.std = config.initializer_range
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)
        nn.init.ones_(self.ln_weight)
        nn.init.zeros_(self.ln_bias)

    def forward(self, h, prefix_states, multiplexer, instances=None, head=None):
        own = (self.weight, self.bias, self.ln_weight, self.ln_bias)
        z = F.mlp_demux(h, *own, self.eps, instances=instances)
        return z if head is None else head(z)


@DEMULTIPLEXERS.register("rsa")
class RsaDemultiplexer(Demultiplexer):
    """MUX-PLM's RSA demultiplexer as its published checkpoints have it (MUX-PLM, section 3, ``index_pos``): `key` with
    a deeper, residual MLP in place of one layer.

    With x = [k_i ; h_j] and M = ``config.demultiplexer_layers``: x = GELU(W_m x + b_m) for m = 1 ... M - 1, from m = 2
    on with a skip connection; ``z = x + LN(GELU(W x + b))``. Retrieval takes another way through the same keys and
    layers: x = LN_m(GELU(W_m x + b_m)) for m = 1 ... M, with skip connections if ``config.retrieval_residual``. Neither
    way uses all parameters: `TMuxForRetrieval` and `TMuxForMaskedLM` under DDP need ``find_unused_parameters``.
    """

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        d = self.width
        self.instance_keys = nn.Parameter(torch.empty(self.num_instances, d))
        self.dense = nn.ModuleList(nn.Linear(2 * d if m == 0 else d, d) for m in range(config.demultiplexer_layers))
        self.retrieval_norms = nn.ModuleList(nn.LayerNorm(d, eps=config.layer_norm_eps) for _ in self.dense)
        self.output = nn.Linear(d, d)
        self.dropout = nn.Dropout(getattr(config.backbone_config, "hidden_dropout_prob", 0.0))
        self.retrieval_residual = config.retrieval_residual
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states beside them

    def forward(self, h, prefix_states, multiplexer, instances=None, head=None):
        u = self._first(h, instances)
        x = self.dropout(nn.functional.gelu(u))
        for dense in self.dense[1:-1]:
            x = x + self.dropout(nn.functional.gelu(dense(x)))
        z = x + norm_gelu_linear(x, self.output, self.layer_norm)
        return z if head is None else head(z)

    def retrieve(self, h, prefix_states, multiplexer, instances=None):
        halves = self._halves(h)
        norm = self.retrieval_norms[0]
        x = F.pair_norm(*halves, norm.weight, norm.bias, norm.eps, instances=instances)
        for dense, norm in zip(self.dense[1:], self.retrieval_norms[1:], strict=True):
            y = norm_gelu_linear(x, dense, norm)
            x = x + y if self.retrieval_residual else y
        return x

    def _halves(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """W_h h (G, L, d) and W_k k + b (G, N, d), whose sums are the first layer's output (`F.index_demux`)."""
        first, d = self.dense[0], self.width
        keys = nn.functional.linear(self.instance_keys, first.weight[:, :d], first.bias)
        return nn.functional.linear(h, first.weight[:, d:]), keys.expand(h.shape[0], -1, -1)

    def _first(self, h: Tensor, instances: Tensor | None) -> Tensor:
        a, b = self._halves(h)
        if instances is None:
            return a[:, None] + b[:, :, None]
        return a + b.gather(1, instances.long()[..., None].expand(-1, -1, self.width))


def norm_gelu_linear(x: Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """``LN(GELU(W x + b))``: x (..., L, d) -> (..., L, d)."""
    return F.linear_gelu_norm(x, dense.weight, dense.bias, norm.weight, norm.bias, norm.eps)
