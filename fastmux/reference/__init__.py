"""The specification of all ops in plain PyTorch, written as the papers write them.

These functions are slow, and no model calls them. They concatenate, expand and average as the formulas say, support
autograd and work in any floating dtype. Tests and benchmarks compare `fastmux.functional` with them in float64.

Shapes: G mux groups, N instances, L positions, width d, V vocabulary entries; row ``g * N + i`` of a batch is
instance i of group g.

Sources: DataMUX (Murahari et al., NeurIPS 2022, arXiv 2202.09318) sections 3.1-3.3; MUX-PLM (Murahari et al., 2023,
arXiv 2302.12441) section 3 and its published code; `unbind_demux` is fastmux's own.
"""

from fastmux.reference.demux import index_demux, key_demux, mlp_demux, pair_norm, rsa_demux, unbind_demux
from fastmux.reference.embeddings import embedding_mux, index_prefix, instance_embeddings
from fastmux.reference.image_mux import convolution_mux, rotation_mux
from fastmux.reference.joined import (
    feed_forward_of_positions,
    join_positions,
    join_rows,
    narrow_output,
    separate_positions,
    separate_rows,
)
from fastmux.reference.losses import retrieval_loss, rsa_retrieval
from fastmux.reference.mux import attention_mux, hadamard_matrix, hadamard_mux, orthogonal_mux, walsh_hadamard_mux

__all__ = [
    "attention_mux",
    "convolution_mux",
    "embedding_mux",
    "feed_forward_of_positions",
    "hadamard_matrix",
    "hadamard_mux",
    "index_demux",
    "index_prefix",
    "instance_embeddings",
    "join_positions",
    "join_rows",
    "key_demux",
    "mlp_demux",
    "narrow_output",
    "orthogonal_mux",
    "pair_norm",
    "retrieval_loss",
    "rotation_mux",
    "rsa_demux",
    "rsa_retrieval",
    "separate_positions",
    "separate_rows",
    "unbind_demux",
    "walsh_hadamard_mux",
]
