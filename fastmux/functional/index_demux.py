"""`index_demux`: index-prefix (and key) demultiplexing. Kernels: kernels/index_demux.py, kernels/pair_norm_head.py.

The first linear layer of ``LN(GELU(W [p_i ; h_j] + b))`` splits: W [p ; h] = W_p p + W_h h costs L + N rows of a GEMM
instead of N * L, and no concatenation. What is left, for each of the N * L pairs, is `pair_norm`: add, GELU, LayerNorm,
and, where the caller gives one, a linear head, so that z itself need not be written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._checks import Shapes, check_floating
from fastmux.functional.pair_norm import pair_norm


def index_demux(
    h: Tensor,
    p: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    *,
    instances: Tensor | None = None,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
) -> Tensor:
    """Demultiplex: ``z_ij = LN(GELU(W [p_i ; h_j] + b))`` (DataMUX, section 3.2, "index embeddings").

    Args:
        h: (G, L, d), hidden states of the multiplexed sequence.
        p: (G, N, d), the backbone's output at the index prefix; or (N, d), learned keys (MUX-PLM, section 3, "RSA").
        weight: (d, 2d), the columns of p first; bias: (d).
        ln_weight, ln_bias: (d). eps: of the LayerNorm.
        instances: (G, L) integers: form only this instance at each position, as retrieval does.
        head_weight, head_bias: (C, d) and (C): return ``z @ head_weight.T + head_bias`` in place of z.

    Returns:
        (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or (on a CPU) an instance is out of range.

    Example:
        >>> import torch
        >>> from fastmux.functional import index_demux
        >>> h, p, d = torch.randn(3, 5, 8), torch.randn(3, 2, 8), 8
        >>> index_demux(h, p, torch.randn(d, 2 * d), torch.zeros(d), torch.ones(d), torch.zeros(d)).shape
        torch.Size([3, 2, 5, 8])
    """
    shapes = Shapes("index_demux")
    shapes.sizes["2d"] = 2 * shapes.bind(h=(h, "GLd"))["d"]
    shapes.bind(p=(p, "Nd" if p.dim() == 2 else "GNd"), weight=(weight, ("d", "2d")), bias=(bias, "d"))
    check_floating("index_demux", h=h, p=p, weight=weight, bias=bias)
    width = h.shape[-1]
    if torch.compiler.is_exporting():
        # The product would ask of how many groups slices of states are, to know whether to copy it.
        h, p = (t.clone(memory_format=torch.contiguous_format) for t in (h, p))
    a = F.linear(h, weight[:, width:])
    b = F.linear(p, weight[:, :width], bias)
    if p.dim() == 2:
        b = b.expand(h.shape[0], -1, -1)
    return pair_norm(a, b, ln_weight, ln_bias, eps, instances=instances, head_weight=head_weight, head_bias=head_bias)
