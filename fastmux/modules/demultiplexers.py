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
    """The base class of demultiplexers: recovers N hidden sequences from one.

    It takes tensors, never other modules: Accelerate moves a module's arguments to the device where it computes. A
    subclass that passes the weights of its modules to a fused op asks `is_plain` about each module first. Where the
    answer is no, it calls the module.

    Args:
        num_instances: N.
        width: d, the width of the hidden states.
        eps: The epsilon of every LayerNorm.
    """

    #: Whether the encoder must run on an index prefix.
    has_prefix = False
    #: Whether it applies the multiplexer's transforms.
    takes_transforms = False
    #: The names of its modules that `retrieve` does not use.
    task_only: tuple[str, ...] = ()

    def __init__(self, num_instances: int, width: int, *, eps: float = 1e-12):
        super().__init__()
        self.num_instances, self.width = num_instances, width
        self.layer_norm: nn.LayerNorm | None = nn.LayerNorm(width, eps=eps)

    @classmethod
    def from_config(cls, config) -> Demultiplexer:
        """Builds the demultiplexer of a `fastmux.TMuxConfig`. Its ``demultiplexer_options`` are keyword arguments of
        the class; options that are not given, such as ``eps``, are the encoder's."""
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
            h: The hidden states (G, L, d) at the positions to demultiplex.
            prefix_states: The hidden states (G, N, d) at the index prefix. None where `has_prefix` is False.
            transforms: The multiplexer's transforms, (N, d) or (N, d, d). None where `takes_transforms` is False.
            instances: The one instance to recover at each position, (G, L). All N if None.
            head: A linear head, d to C, that the op applies to the states before it writes them.

        Returns:
            (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it demultiplexes")

    def retrieve(
        self, h: Tensor, prefix_states: Tensor | None, transforms: Tensor | None, instances: Tensor | None = None
    ) -> Tensor:
        """Returns the states that the retrieval head decodes: those of `forward`, unless a subclass overrides this."""
        return self(h, prefix_states, transforms, instances)

    def _fits_op(self, dense: nn.Module | None) -> bool:
        """Whether one op computes the same as ``layer_norm(gelu(dense(x)))``."""
        norm = self.layer_norm
        if not is_plain(dense, nn.Linear) or not is_plain(norm, nn.LayerNorm):
            return False
        return norm.bias is not None and (dense is None or dense.bias is not None)  # a user may have removed a bias

    def _after_dense(self, instances: Tensor | None, head: Head | None) -> dict:
        """The keyword arguments that every demultiplexing op takes after those of its first linear layer."""
        return {
            "ln_weight": self.layer_norm.weight,
            "ln_bias": self.layer_norm.bias,
            "eps": self.layer_norm.eps,
            "instances": instances,
            "head_weight": None if head is None else head.weight,
            "head_bias": None if head is None else head.bias,
        }

    def _norm_and_head(self, x: Tensor, head: Head | None) -> Tensor:
        """The last step of the op, computed by calling the modules."""
        z = self.layer_norm(x)
        return z if head is None else head(z)

    def reset_parameters(self) -> None:
        """Initialises the parameters that belong to neither a Linear nor a LayerNorm."""


@DEMULTIPLEXERS.register("index")
class IndexDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W [p_i ; h_j] + b))`` with p_i the encoder's output at the index prefix
    (DataMUX, section 3.2)."""

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
    """`IndexDemultiplexer` with learned keys in place of the prefix's states (MUX-PLM, section 3, "RSA"). No prefix."""

    has_prefix = False

    def __init__(self, num_instances: int, width: int, *, eps: float = 1e-12):
        super().__init__(num_instances, width, eps=eps)
        self.instance_keys = nn.Parameter(torch.empty(num_instances, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states

    def forward(self, h, prefix_states, transforms, instances=None, head=None):
        return super().forward(h, self.instance_keys, transforms, instances, head)


@DEMULTIPLEXERS.register("unbind")
class UnbindDemultiplexer(Demultiplexer):
    """``z = LN(GELU(W (v_i * h_j) + b))`` with the multiplexer's vectors v_i. The product undoes the binding.

    For a multiplexer of matrices O_i, their inverse O_i^T h_j takes the product's place.

    Args:
        linear: Whether there are W and the GELU.

    Raises:
        ValueError: In `from_config`, the encoder's embeddings and hidden states differ in width, so that one transform
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
    """``z_i = LN_i(GELU(W_i h_j + b_i))``: each instance has its own linear layer and LayerNorm (DataMUX, section 3.2,
    "MLP demuxing"). No prefix.

    Args:
        std: The standard deviation of the linear layers' initial weights.
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

    Let x = [k_i ; h_j] and M = ``num_layers``. For a task, x = GELU(W_m x + b_m) for m = 1 ... M - 1, with a skip
    connection from m = 2 on, and then ``z = x + LN(GELU(W x + b))``. Retrieval uses the same keys and layers, but
    neither W, b nor LN: x = LN_m(GELU(W_m x + b_m)) for m = 1 ... M, with skip connections if ``retrieval_residual``.

    Args:
        num_layers: M, 2 or more. Only retrieval uses the last one.
        dropout: The dropout after every GELU of a task.
        retrieval_residual: Whether retrieval has skip connections.
        eps: The epsilon of every LayerNorm.

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
        nn.init.normal_(self.instance_keys)  # the scale of the layer-normalised hidden states

    def forward(self, h, prefix_states, transforms, instances=None, head=None, retrieval=False):
        if retrieval:
            return self._for_retrieval(h, instances)
        x = self.dropout(nn.functional.gelu(self._first(h, instances)))
        for layer in self.layers[1:-1]:
            x = x + self.dropout(nn.functional.gelu(layer(x)))
        z = x + norm_gelu_linear(x, self.output, self.layer_norm)
        return z if head is None else head(z)

    def retrieve(self, h, prefix_states, transforms, instances=None):
        # Through `forward`: libraries that offload weights bring them in when it is called.
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
        """The first layer's output, (G, N, L, d), or (G, L, d) with ``instances``."""
        if not is_plain(self.layers[0], nn.Linear):
            return self.layers[0](pairs(h, self.instance_keys, instances))
        a, b = self._halves(h)
        if instances is None:
            return a[:, None] + b[:, :, None]
        return a + b.gather(1, instances.long()[..., None].expand(-1, -1, self.width))

    def _halves(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """W_h h (G, L, d) and W_k k + b (G, N, d). Their sums are the first layer's output, as in `F.index_demux`."""
        first, d = self.layers[0], self.width
        keys = nn.functional.linear(self.instance_keys, first.weight[:, :d], first.bias)
        return nn.functional.linear(h, first.weight[:, d:]), keys.expand(h.shape[0], -1, -1)


def select(z: Tensor, instances: Tensor | None) -> Tensor:
    """Picks from z (G, N, L, d) the instance of each position, instances (G, L) -> (G, L, d); z itself if None."""
    if instances is None:
        return z
    return z.gather(1, instances.long()[:, None, :, None].expand(-1, -1, -1, z.shape[-1])).squeeze(1)


def pairs(h: Tensor, p: Tensor, instances: Tensor | None) -> Tensor:
    """Concatenates [p_i ; h_j] for h (G, L, d) and p (G, N, d) or (N, d): all pairs (G, N, L, 2d), or those of
    ``instances`` (G, L, 2d)."""
    p = p.expand(h.shape[0], -1, -1)
    if instances is not None:
        return torch.cat([p.gather(1, instances.long()[..., None].expand(-1, -1, p.shape[-1])), h], dim=-1)
    shape = (h.shape[0], p.shape[1], h.shape[1], -1)
    return torch.cat([p[:, :, None].expand(shape), h[:, None].expand(shape)], dim=-1)


def norm_gelu_linear(x: Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """``LN(GELU(W x + b))``: x (..., L, d) -> (..., L, d). A module that replaced a layer is called as it is."""
    if is_plain(dense, nn.Linear) and is_plain(norm, nn.LayerNorm):
        return F.linear_gelu_norm(x, dense.weight, dense.bias, norm.weight, norm.bias, norm.eps)
    return norm(nn.functional.gelu(dense(x)))
