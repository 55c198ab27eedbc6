"""The ops of data multiplexing, differentiable, each with a fast path per backend (`fastmux.backends`).

One op, one file; the formulas are specified in `fastmux.reference`, the Triton kernels live in `fastmux.kernels`.
Within `holding` what depends on weights alone is made once.
"""

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
from fastmux.kernels.common.held import held, holding

__all__ = [
    "embedding_mux",
    "hadamard_mux",
    "held",
    "holding",
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
