"""Others' code for fastmux's ops, timed beside them if it is installed (``pip install -e ".[peers]"``).

Each function imports a package and returns a callable that takes an op's inputs by name. Parts that a package does not
have are plain PyTorch, as its users would write them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch.nn.functional as F
from torch import Tensor

from bench.machine import default_device

Peer = Callable[..., Tensor]


def installed(**loaders: Callable[[], Peer]) -> dict[str, Peer]:
    """The available peers by name. All need a GPU, and a package that may be missing."""
    peers = {}
    if default_device().type == "cuda":
        for name, load in loaders.items():
            with suppress(ModuleNotFoundError):
                peers[name] = load()
    return peers


def liger_linear_cross_entropy() -> Peer:
    """Liger-Kernel's fused linear cross entropy. It makes logits in chunks, and their gradients in the forward pass."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return lambda hidden, weight, target, bias: liger_fused_linear_cross_entropy(hidden, weight, target, bias)


def liger_index_demux() -> Peer:
    """The first layer as two products, as in `fastmux`, then PyTorch's GELU and Liger-Kernel's LayerNorm."""
    from liger_kernel.transformers.functional import liger_layer_norm

    def index_demux(h, p, weight, bias, ln_weight, ln_bias):
        width = h.shape[-1]
        states = F.linear(h, weight[:, width:], bias)
        pairs = states[:, None] + F.linear(p, weight[:, :width])[:, :, None]
        return liger_layer_norm(F.gelu(pairs), ln_weight, ln_bias, 1e-12)

    return index_demux


def liger_embedding_mux() -> Peer:
    """PyTorch's embeddings and average, with Liger-Kernel's LayerNorm between them."""
    from liger_kernel.transformers.functional import liger_layer_norm

    def embedding_mux(
        input_ids, instance_vectors, word_embeddings, position_embeddings, position_ids, ln_weight, ln_bias
    ):
        x = F.embedding(input_ids, word_embeddings) + F.embedding(position_ids[0, 0], position_embeddings)
        x = liger_layer_norm(x, ln_weight, ln_bias, 1e-12)
        return (instance_vectors[:, None] * x).mean(1)

    return embedding_mux


def fast_hadamard_transform() -> Peer:
    """Tri Dao's transform of every row and of the sum. It takes widths that are powers of two."""
    from fast_hadamard_transform import hadamard_transform

    def walsh_hadamard_mux(x, inner_signs, outer_signs):
        num_instances, width = inner_signs.shape
        if width & (width - 1):
            raise NotImplementedError(f"d = {width} is no power of two")
        rows = hadamard_transform(x * inner_signs[:, None], width**-0.5)
        mixed = (outer_signs[:, None] * rows).sum(1)
        return hadamard_transform(mixed, (width * num_instances) ** -0.5)

    return walsh_hadamard_mux
