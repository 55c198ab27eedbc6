"""`index_demux`: demultiplexing by an index prefix or by keys. Kernels: kernels/pair_norm.py,
kernels/pair_norm_head.py.

The first linear layer of ``LN(GELU(W [p_i ; h_j] + b))`` is split: W [p ; h] = W_p p + W_h h takes L + N rows of a
matrix product instead of N * L, and no concatenation. `pair_norm` does the rest for all N * L pairs: add, GELU,
LayerNorm and, if there is one, a linear head, so that z need not be written.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._checks import Shapes, check_floating
from fastmux.functional.derived import derived
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
        h: The hidden states of the multiplexed sequence, (G, L, d).
        p: The encoder's output at the index prefix, (G, N, d); or learned keys (N, d) (MUX-PLM, section 3, "RSA").
        weight: The weight W (d, 2d), with the columns for p first.
        bias: The bias b (d).
        ln_weight, ln_bias: LayerNorm's weight and bias, (d).
        eps: LayerNorm's epsilon.
        instances: Integers (G, L): the only instance to compute at each position, as in retrieval.
        head_weight, head_bias: A linear head, (C, d) and (C). The result is then ``z @ head_weight.T + head_bias``.

    Returns:
        (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) an instance is out of range.

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
    b_of = partial(F.linear, p, weight[:, :width], bias)
    # Keys are weights, too.
    b = b_of() if p.dim() == 3 else derived("keys", weight, [weight, bias, p], b_of).expand(h.shape[0], -1, -1)
    return pair_norm(a, b, ln_weight, ln_bias, eps, instances=instances, head_weight=head_weight, head_bias=head_bias)
