"""Demultiplexers: one sequence of hidden states in, N sequences out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.functional.pair_norm import Head
from fastmux.modules.is_plain import is_plain
from fastmux.modules.registry import Registry

DEMULTIPLEXERS = Registry("demultiplexer")


class Demultiplexer(nn.Module):
    """Recovers N hidden sequences.

    It is given tensors, never other modules: Accelerate moves what a module is given to where the module computes.
    Subclasses whose weights go into a fused op ask `is_plain` of the modules that hold them, and call the modules where
    it says no.

    Args:
        num_instances: N.
        width: d, of the hidden states.
        eps: of every LayerNorm.
    """

    #: The encoder must run on an index prefix.
    has_prefix = False
    #: It applies the multiplexer's transforms.
    takes_transforms = False
    #: The names of those of its modules that `retrieve` leaves out.
    task_only: tuple[str, ...] = ()

    def __init__(self, num_instances: int, width: int, *, eps: float = 1e-12):
        super().__init__()
        self.num_instances, self.width = num_instances, width
        self.layer_norm: nn.LayerNorm | None = nn.LayerNorm(width, eps=eps)

    @classmethod
    def from_config(cls, config) -> Demultiplexer:
        """The demultiplexer of a `fastmux.TMuxConfig`, whose ``demultiplexer_options`` are keyword arguments of the
        class. What the class takes of the encoder's is its default there."""
        options = cls._options_of_encoder(config) | (config.demultiplexer_options or {})
        return cls(config.num_instances, config.hidden_size, **options)

    @classmethod
    def _options_of_encoder(cls, config) -> dict:
        return {"eps": config.layer_norm_eps}

    def forward(
        self,
        h: Tensor,
        prefix_states: Tensor | None,
        transforms: Tensor | None,
        instances: Tensor | None = None,
        head: Head | None = None,
    ) -> Tensor:
        """Args:
            h: (G, L, d), hidden states at the positions wanted.
            prefix_states: (G, N, d), hidden states at the index prefix; None where `has_prefix` is False.
            transforms: (N, d) or (N, d, d), the multiplexer's; None where `takes_transforms` is False.
            instances: (G, L), the one instance wanted at each position; all N if None.
            head: a linear layer (d -> C) to apply while the states are at hand.

        Returns:
            (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it demultiplexes")

    def retrieve(
        self, h: Tensor, prefix_states: Tensor | None, transforms: Tensor | None, instances: Tensor | None = None
    ) -> Tensor:
        """The states that the retrieval head decodes: those of `forward`, unless a class says otherwise."""
        return self(h, prefix_states, transforms, instances)

    def _fits_op(self, dense: nn.Module | None) -> bool:
        """Whether one op may stand in for ``layer_norm(gelu(dense(x)))``."""
        norm = self.layer_norm
        if not is_plain(dense, nn.Linear) or not is_plain(norm, nn.LayerNorm):
            return False
        return norm.bias is not None and (dense is None or dense.bias is not None)  # somebody may have left one out

    def _after_dense(self, instances: Tensor | None, head: Head | None) -> dict:
        """What every demultiplexing op takes behind its first linear layer."""
        return {
            "ln_weight": self.layer_norm.weight,
            "ln_bias": self.layer_norm.bias,
            "eps": self.layer_norm.eps,
            "instances": instances,
            "head_weight": None if head is None else head.weight,
            "head_bias": None if head is None else head.bias,
        }

    def _norm_and_head(self, x: Tensor, head: Head | None) -> Tensor:
        """What the op does last, by the modules themselves."""
        z = self.layer_norm(x)
        return z if head is None else head(z)

    def reset_parameters(self) -> None:
        """Initialise what is neither a Linear nor a LayerNorm."""


@DEMULTIPLEXERS.register("index")
class IndexDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W [p_i ; h_j] + b))`` with p_i the encoder's output at the index prefix (DataMUX, section 3.2)."""

    has_prefix = True

    def __init__(self, num_instances: int, width: int, *, eps: float = 1e-12):
        super().__init__(num_instances, width, eps=eps)
        self.dense = nn.Linear(2 * width, width)

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        if self._fits_op(self.dense):
            dense = (self.dense.weight, self.dense.bias)
            return F.index_demux(h, prefix_states, *dense, **self._after_dense(instances, head))
        x = self.dense(pairs(h, prefix_states, instances))
        return self._norm_and_head(nn.functional.gelu(x), head)


@DEMULTIPLEXERS.register("key")
class KeyDemultiplexer(IndexDemultiplexer):
    """`IndexDemultiplexer` with learned keys in place of index states, and no prefix (MUX-PLM, section 3, "RSA")."""

    has_prefix = False

    def __init__(self, num_instances: int, width: int, *, eps: float = 1e-12):
        super().__init__(num_instances, width, eps=eps)
        self.instance_keys = nn.Parameter(torch.empty(num_instances, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states beside them

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        return super().forward(h, self.instance_keys, transforms, instances, head)


@DEMULTIPLEXERS.register("unbind")
class UnbindDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W (v_i * h_j) + b))`` with the multiplexer's own v_i, or O_i^T h_j: the inverse of the binding.

    Args:
        linear: False leaves out W and the GELU.

    Raises:
        ValueError: (`from_config`) if the encoder's embeddings and hidden states differ in width, so that one transform
            cannot serve both.
    """

    takes_transforms = True

    def __init__(self, num_instances: int, width: int, *, linear: bool = True, eps: float = 1e-12):
        super().__init__(num_instances, width, eps=eps)
        self.dense = nn.Linear(width, width) if linear else None

    @classmethod
    def from_config(cls, config) -> Demultiplexer:
        if config.embedding_size != config.hidden_size:
            raise ValueError(
                f"demultiplexer 'unbind' applies the multiplexer's transforms, of width embedding_size = "
                f"{config.embedding_size}, to hidden states of width hidden_size = {config.hidden_size}; the two must "
                "be equal. Use 'index' or 'key' with this encoder."
            )
        return super().from_config(config)

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        if self._fits_op(self.dense):
            dense = (self.dense.weight, self.dense.bias) if self.dense is not None else (None, None)
            return F.unbind_demux(h, transforms, *dense, **self._after_dense(instances, head))
        h = h[:, None]
        x = select(transforms[:, None] * h if transforms.dim() == 2 else h @ transforms, instances)
        return self._norm_and_head(x if self.dense is None else nn.functional.gelu(self.dense(x)), head)


@DEMULTIPLEXERS.register("mlp")
class MlpDemultiplexer(Demultiplexer):
    """A linear layer and a LayerNorm of each instance's own: ``z_i = LN_i(GELU(W_i h_j + b_i))`` (DataMUX, section 3.2,
    "MLP demuxing"). No prefix.

    Args:
        std: of the linear layers' initial weights.
    """

    def __init__(self, num_instances: int, width: int, *, std: float = 0.02, eps: float = 1e-12):
        super().__init__(num_instances, width, eps=eps)
        self.layer_norm = None  # one affine for each instance instead
        self.eps, self.std = eps, std
        n, d = num_instances, width
        self.weight, self.bias = nn.Parameter(torch.empty(n, d, d)), nn.Parameter(torch.empty(n, d))
        self.ln_weight, self.ln_bias = nn.Parameter(torch.empty(n, d)), nn.Parameter(torch.empty(n, d))
        self.reset_parameters()

    @classmethod
    def _options_of_encoder(cls, config) -> dict:
        return {"eps": config.layer_norm_eps, "std": config.initializer_range}

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)
        nn.init.ones_(self.ln_weight)
        nn.init.zeros_(self.ln_bias)

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        own = (self.weight, self.bias, self.ln_weight, self.ln_bias)
        z = F.mlp_demux(h, *own, self.eps, instances=instances)
        return z if head is None else head(z)


@DEMULTIPLEXERS.register("rsa")
class RsaDemultiplexer(Demultiplexer):
    """MUX-PLM's RSA demultiplexer as its published checkpoints have it (MUX-PLM, section 3, ``index_pos``): `key` with
    a deeper, residual MLP in place of one layer.

    With x = [k_i ; h_j] and M = ``num_layers``: x = GELU(W_m x + b_m) for m = 1 ... M - 1, from m = 2 on with a skip
    connection; ``z = x + LN(GELU(W x + b))``. Retrieval takes another way through the same keys and layers: x =
    LN_m(GELU(W_m x + b_m)) for m = 1 ... M, with skip connections if ``retrieval_residual``; W, b and LN are a task's
    alone.

    Args:
        num_layers: M, 2 or more; one of them is retrieval's alone.
        dropout: behind every GELU of the task's way.

    Raises:
        ValueError: ``num_layers`` is less than 2.
    """

    task_only = ("output", "layer_norm")

    def __init__(
        self,
        num_instances: int,
        width: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.0,
        retrieval_residual: bool = False,
        eps: float = 1e-12,
    ):
        if num_layers < 2:
            raise ValueError(f"num_layers is {num_layers}, expected at least 2")
        super().__init__(num_instances, width, eps=eps)
        self.instance_keys = nn.Parameter(torch.empty(num_instances, width))
        self.layers = nn.ModuleList(nn.Linear(2 * width if m == 0 else width, width) for m in range(num_layers))
        self.retrieval_norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in self.layers)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.retrieval_residual = retrieval_residual
        self.reset_parameters()

    @classmethod
    def _options_of_encoder(cls, config) -> dict:
        return {
            "dropout": getattr(config.backbone_config, "hidden_dropout_prob", 0.0),
            "retrieval_residual": config.conventions.retrieval_residual,
            "eps": config.layer_norm_eps,
        }

    def reset_parameters(self) -> None:
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states beside them

    def forward(self, h, prefix_states, transforms, instances=None, head=None, retrieval=False):
        if retrieval:
            return self._for_retrieval(h, instances)
        x = self.dropout(nn.functional.gelu(self._first(h, instances)))
        for layer in self.layers[1:-1]:
            x = x + self.dropout(nn.functional.gelu(layer(x)))
        z = x + norm_gelu_linear(x, self.output, self.layer_norm)
        return z if head is None else head(z)

    def retrieve(self, h, prefix_states, transforms, instances=None):
        # Through `forward`, as whatever brings weights to where they are needed hangs on it.
        return self(h, prefix_states, transforms, instances, retrieval=True)

    def _for_retrieval(self, h: Tensor, instances: Tensor | None) -> Tensor:
        first, norm = self.layers[0], self.retrieval_norms[0]
        if is_plain(first, nn.Linear) and is_plain(norm, nn.LayerNorm):
            x = F.pair_norm(*self._halves(h), norm.weight, norm.bias, norm.eps, instances=instances)
        else:
            x = norm(nn.functional.gelu(self._first(h, instances)))
        for layer, norm in zip(self.layers[1:], self.retrieval_norms[1:], strict=True):
            y = norm_gelu_linear(x, layer, norm)
            x = x + y if self.retrieval_residual else y
        return x

    def _first(self, h: Tensor, instances: Tensor | None) -> Tensor:
        """The first layer's output, (G, N, L, d), or (G, L, d) of the drawn instances."""
        if not is_plain(self.layers[0], nn.Linear):
            return self.layers[0](pairs(h, self.instance_keys, instances))
        a, b = self._halves(h)
        if instances is None:
            return a[:, None] + b[:, :, None]
        return a + b.gather(1, instances.long()[..., None].expand(-1, -1, self.width))

    def _halves(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """W_h h (G, L, d) and W_k k + b (G, N, d), whose sums are the first layer's output (`F.index_demux`)."""
        first, d = self.layers[0], self.width
        keys = nn.functional.linear(self.instance_keys, first.weight[:, :d], first.bias)
        return nn.functional.linear(h, first.weight[:, d:]), keys.expand(h.shape[0], -1, -1)


def select(z: Tensor, instances: Tensor | None) -> Tensor:
    """z (G, N, L, d) -> the drawn instance of each position, (G, L, d), instances (G, L); all if None."""
    if instances is None:
        return z
    return z.gather(1, instances.long()[:, None, :, None].expand(-1, -1, -1, z.shape[-1])).squeeze(1)


def pairs(h: Tensor, p: Tensor, instances: Tensor | None) -> Tensor:
    """[p_i ; h_j] of all pairs, (G, N, L, 2d), or of the drawn ones, (G, L, 2d): h (G, L, d), p (G, N, d) or (N, d)."""
    p = p.expand(h.shape[0], -1, -1)
    if instances is not None:
        return torch.cat([p.gather(1, instances.long()[..., None].expand(-1, -1, p.shape[-1])), h], dim=-1)
    shape = (h.shape[0], p.shape[1], h.shape[1], -1)
    return torch.cat([p[:, :, None].expand(shape), h[:, None].expand(shape)], dim=-1)


def norm_gelu_linear(x: Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """``LN(GELU(W x + b))``: x (..., L, d) -> (..., L, d). What took the place of a layer runs as it is."""
    if is_plain(dense, nn.Linear) and is_plain(norm, nn.LayerNorm):
        return F.linear_gelu_norm(x, dense.weight, dense.bias, norm.weight, norm.bias, norm.eps)
    return norm(nn.functional.gelu(dense(x)))
