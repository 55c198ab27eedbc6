"""Retrieval, the auxiliary task that tells instances apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.reference.demux import _select


def rsa_retrieval(h: Tensor, instance_keys: Tensor, dense: list[tuple], ln: list[tuple], residual: bool) -> Tensor:
    """The states that retrieval decodes for `rsa_demux`: the same keys and layers, with a LayerNorm after every layer.

    The arguments are those of `rsa_demux`, with an ln for each layer. ``residual`` adds skip connections from the
    second layer on.
    """
    (groups, length, width), n = h.shape, instance_keys.shape[0]
    keys = instance_keys[None, :, None].expand(groups, n, length, width)
    x = torch.cat([keys, h[:, None].expand(groups, n, length, width)], dim=-1)
    for m, (layer, (weight, bias, eps)) in enumerate(zip(dense, ln, strict=True)):
        y = F.layer_norm(F.gelu(F.linear(x, *layer)), (width,), weight, bias, eps)
        x = x + y if residual and m else y
    return x


def retrieval_loss(
    z: Tensor, instances: Tensor, input_ids: Tensor, weight: Tensor, bias: Tensor | None, ignore_index: int = -100
) -> Tensor:
    """The loss of retrieval (DataMUX 3.3): predict at each position the token of one instance, which is drawn.

    z (G, N, L, d), instances (G, L), input_ids (G, N, L), decoder weight (V, d) and bias (V) -> scalar, the mean over
    positions whose target is not ``ignore_index``.
    """
    selected = _select(z, instances)
    targets = input_ids.gather(1, instances[:, None]).squeeze(1)
    logits = F.linear(selected, weight, bias)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index)
