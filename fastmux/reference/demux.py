"""Demultiplexers: one sequence of hidden states to N."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _select(z: Tensor, instances: Tensor | None) -> Tensor:
    """Picks the instance of every position: z (G, N, L, d), instances (G, L) -> (G, L, d)."""
    if instances is None:
        return z
    index = instances[:, None, :, None].expand(-1, 1, -1, z.shape[-1])
    return z.gather(1, index).squeeze(1)


def index_demux(
    h: Tensor,
    p: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN(GELU(W [p_i ; h_j] + b))`` (DataMUX 3.2, "index embeddings").

    h (G, L, d) hidden states, p (G, N, d) the backbone's output at the index prefix, weight (d, 2d) -> (G, N, L, d),
    or (G, L, d) with ``instances`` (G, L), the one instance wanted at each position.
    """
    groups, length, width = h.shape
    num_instances = p.shape[1]
    pairs = torch.cat(
        [
            p[:, :, None, :].expand(groups, num_instances, length, width),
            h[:, None, :, :].expand(groups, num_instances, length, width),
        ],
        dim=-1,
    )
    z = F.layer_norm(F.gelu(F.linear(pairs, weight, bias)), (width,), ln_weight, ln_bias, eps)
    return _select(z, instances)


def pair_norm(
    a: Tensor, b: Tensor, ln_weight: Tensor, ln_bias: Tensor, eps: float = 1e-12, instances: Tensor | None = None
) -> Tensor:
    """``LN(GELU(a_j + b_i))``: `index_demux` after its linear layer, whose output is a_j + b_i with a = W_h h and b =
    W_p p + bias.

    a (G, L, d), b (G, N, d) -> (G, N, L, d), or (G, L, d) with ``instances`` (G, L).
    """
    z = F.layer_norm(F.gelu(a[:, None] + b[:, :, None]), a.shape[-1:], ln_weight, ln_bias, eps)
    return _select(z, instances)


def key_demux(
    h: Tensor,
    instance_keys: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """`index_demux` with learned keys (N, d), the same for every group, in place of index states (MUX-PLM, RSA)."""
    p = instance_keys[None].expand(h.shape[0], -1, -1)
    return index_demux(h, p, weight, bias, ln_weight, ln_bias, eps, instances)


def rsa_demux(h: Tensor, instance_keys: Tensor, dense: list[tuple], output: tuple, ln: tuple) -> Tensor:
    """MUX-PLM's RSA demultiplexer, as its checkpoints have it: residual layers on [k_i ; h_j], then LN(GELU(.)).

    h (G, L, d), instance_keys (N, d), dense a list of (weight, bias) whose first weight is (d, 2d), output
    (weight, bias), ln (weight, bias, eps) -> (G, N, L, d).
    """
    (groups, length, width), n = h.shape, instance_keys.shape[0]
    keys = instance_keys[None, :, None].expand(groups, n, length, width)
    x = torch.cat([keys, h[:, None].expand(groups, n, length, width)], dim=-1)
    for m, layer in enumerate(dense):
        y = F.gelu(F.linear(x, *layer))
        x = y if m == 0 else x + y
    weight, bias, eps = ln
    return x + F.layer_norm(F.gelu(F.linear(x, *output)), (width,), weight, bias, eps)


def mlp_demux(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN_i(GELU(W_i h_j + b_i))`` (DataMUX 3.2, "MLP demuxing").

    h (G, L, d); weight (N, d, d), bias, ln_weight and ln_bias (N, d) -> (G, N, L, d), or (G, L, d) with ``instances``
    (G, L).
    """
    z = [
        F.layer_norm(F.gelu(F.linear(h, weight[i], bias[i])), h.shape[-1:], ln_weight[i], ln_bias[i], eps)
        for i in range(weight.shape[0])
    ]
    return _select(torch.stack(z, dim=1), instances)


def unbind_demux(
    h: Tensor,
    transforms: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN(GELU(W (v_i * h_j) + b))``, or ``LN(v_i * h_j)`` without a weight.

    h (G, L, d); transforms (N, d), the multiplexer's vectors, or (N, d, d), its orthogonal matrices, whose inverse
    O_i^T takes the place of the product -> (G, N, L, d), or (G, L, d) with ``instances`` (G, L).
    """
    if transforms.dim() == 2:
        unbound = transforms[None, :, None, :] * h[:, None]
    else:
        unbound = (transforms.mT[None, :, None] @ h[:, None, :, :, None]).squeeze(-1)
    if weight is not None:
        unbound = F.gelu(F.linear(unbound, weight, bias))
    z = F.layer_norm(unbound, h.shape[-1:], ln_weight, ln_bias, eps)
    return _select(z, instances)
