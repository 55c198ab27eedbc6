"""`mlp_demux`: demultiplexing with one linear layer and one LayerNorm for each instance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._checks import Shapes, check_floating, check_index


def mlp_demux(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    *,
    instances: Tensor | None = None,
) -> Tensor:
    """Demultiplex: ``z_ij = LN_i(GELU(W_i h_j + b_i))`` (DataMUX, section 3.2, "MLP demuxing").

    All N linear layers read the same states, so they are one matrix product with stacked weights.

    Args:
        h: The hidden states of the multiplexed sequence, (G, L, d).
        weight, bias: The weights W_i (N, d, d) and biases b_i (N, d).
        ln_weight, ln_bias: The weights and biases of the LayerNorms, (N, d).
        eps: The LayerNorms' epsilon.
        instances: Integers (G, L): the only instance to compute at each position.

    Returns:
        (G, N, L, d), or (G, L, d) with ``instances``.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) an instance is out of range.

    Example:
        >>> import torch
        >>> from fastmux.functional import mlp_demux
        >>> affine = torch.ones(2, 8), torch.zeros(2, 8)
        >>> mlp_demux(torch.randn(3, 5, 8), torch.randn(2, 8, 8), torch.zeros(2, 8), *affine).shape
        torch.Size([3, 2, 5, 8])
    """
    shapes = Shapes("mlp_demux")
    shapes.bind(h=(h, "GLd"), weight=(weight, "Ndd"), bias=(bias, "Nd"))
    shapes.bind(ln_weight=(ln_weight, "Nd"), ln_bias=(ln_bias, "Nd"))
    check_floating("mlp_demux", h=h, weight=weight, bias=bias, ln_weight=ln_weight, ln_bias=ln_bias)
    num_instances, width = bias.shape
    u = F.linear(h, weight.flatten(0, 1), bias.flatten()).unflatten(-1, (num_instances, width))
    if instances is not None:
        shapes.bind(instances=(instances, "GL"))
        check_index("mlp_demux", "instances", instances, num_instances, h)
        instances = instances.long()
        u = u.gather(2, instances[..., None, None].expand(-1, -1, 1, width)).squeeze(2)
        ln_weight, ln_bias = F.embedding(instances, ln_weight), F.embedding(instances, ln_bias)
    # `layer_norm` takes no weight and bias that differ between instances.
    z = torch.addcmul(ln_bias, F.layer_norm(F.gelu(u), (width,), eps=eps), ln_weight).to(h.dtype)
    return z if instances is not None else z.transpose(1, 2)
