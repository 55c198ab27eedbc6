"""The differentiable ops of data multiplexing, each with a fast implementation for every backend (`fastmux.backends`).

Each op has one file. `fastmux.reference` specifies the formulas, `fastmux.kernels` holds the Triton kernels.
Within `fixed_weights` what is computed from weights alone is computed once.
"""

from fastmux.functional.derived import derived, fixed_weights
from fastmux.functional.embedding_mux import embedding_mux
from fastmux.functional.hadamard_mux import hadamard_mux
from fastmux.functional.index_demux import index_demux
from fastmux.functional.instance_embeddings import instance_embeddings
from fastmux.functional.linear_cross_entropy import linear_argmax, linear_cross_entropy
from fastmux.functional.mlp_demux import mlp_demux
from fastmux.functional.orthogonal_mux import orthogonal_mux
from fastmux.functional.pair_norm import linear_gelu_norm, pair_norm
from fastmux.functional.unbind_demux import unbind_demux
from fastmux.functional.walsh_hadamard import walsh_hadamard
from fastmux.functional.walsh_hadamard_mux import walsh_hadamard_mux

__all__ = [
    "derived",
    "embedding_mux",
    "fixed_weights",
    "hadamard_mux",
    "index_demux",
    "instance_embeddings",
    "linear_argmax",
    "linear_cross_entropy",
    "linear_gelu_norm",
    "mlp_demux",
    "orthogonal_mux",
    "pair_norm",
    "unbind_demux",
    "walsh_hadamard",
    "walsh_hadamard_mux",
]
