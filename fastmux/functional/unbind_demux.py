"""`unbind_demux`: demultiplexing by the inverse of the binding, as in vector-symbolic architectures.

On the triton backend the linear layer is one matrix product with N stacked weights, W diag(v_i) or W O_i^T. The kernels
of kernels/pair_norm.py or, with a head, kernels/pair_norm_head.py do the rest. Without a linear layer they compute the
product, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.backends import choose_backend
from fastmux.functional._blocking import WHOLE_ELEMENTS, blocks
from fastmux.functional._checks import Shapes, check_floating, check_index
from fastmux.functional._ops import needs_grad
from fastmux.functional.derived import derived
from fastmux.functional.pair_norm import Head, Norm, apply_pair_norm, linear_gelu_norm

TILE_ELEMENTS = 1 << 19


def unbind_demux(
    h: Tensor,
    transforms: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    *,
    instances: Tensor | None = None,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
) -> Tensor:
    """Demultiplex: ``z_ij = LN(GELU(W (v_i * h_j) + b))``; ``z_ij = LN(v_i * h_j)`` without a weight.

    This is fastmux's own. Applying the multiplexer's transform again undoes the binding, so there is no prefix, and no
    parameter for an instance.

    Args:
        h: The hidden states of the multiplexed sequence, (G, L, d).
        transforms: The multiplexer's vectors v_i, (N, d), or its matrices O_i, (N, d, d). With matrices, O_i^T h_j
            takes the place of the product.
        weight: The weight W (d, d), or None.
        bias: The bias b (d), or None.
        ln_weight, ln_bias: LayerNorm's weight and bias, (d).
        eps: LayerNorm's epsilon.
        instances: Integers (G, L): the only instance to compute at each position.
        head_weight, head_bias: A linear head, (C, d) and (C). The result is then ``z @ head_weight.T + head_bias``.

    Returns:
        (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) an instance is out of range.

    Example:
        >>> import torch
        >>> from fastmux.functional import unbind_demux
        >>> h, v, d = torch.randn(3, 5, 8), torch.randn(2, 8), 8
        >>> unbind_demux(h, v, torch.randn(d, d), torch.zeros(d), torch.ones(d), torch.zeros(d)).shape
        torch.Size([3, 2, 5, 8])
    """
    shapes = Shapes("unbind_demux")
    shapes.bind(h=(h, "GLd"), transforms=(transforms, "Nd" if transforms.dim() == 2 else "Ndd"))
    shapes.bind(ln_weight=(ln_weight, "d"), ln_bias=(ln_bias, "d"))
    if weight is not None:
        shapes.bind(weight=(weight, "dd"))
    if bias is not None:
        if weight is None:
            raise ValueError("unbind_demux: bias was given without a weight; give both or neither")
        shapes.bind(bias=(bias, "d"))
    check_floating("unbind_demux", h=h, transforms=transforms, weight=weight, bias=bias, ln_weight=ln_weight)
    if instances is not None:
        shapes.bind(instances=(instances, "GL"))
        check_index("unbind_demux", "instances", instances, transforms.shape[0], h)

    shapes.bind_head(head_weight, head_bias)
    backend, norm, head = choose_backend(h), Norm(ln_weight, ln_bias, float(eps)), Head(head_weight, head_bias)
    if backend == "triton":
        fused = _fused(h, transforms, weight, bias, instances, norm, head)
        if fused is not None:
            return fused
    arguments = (weight, bias, norm, head)
    groups, num_instances = h.shape[0], transforms.shape[0]
    if backend != "torch" or needs_grad(h, transforms, weight, bias, *norm, *head):
        return _demux(_unbind(h, transforms, instances), *arguments)
    # Instance by instance, over as many groups as fit the cache for GELU, LayerNorm and head. The matrix product is
    # fastest with many rows: tiles of one group take 1.4 times as long (L = 128, d = 768).
    parts = blocks(h, num_instances, groups, h.shape[1] * h.shape[2], TILE_ELEMENTS, WHOLE_ELEMENTS)
    if instances is not None or len(parts) == 1:
        return _infer(_unbind(h, transforms, instances), *arguments)
    out = None
    for n, g in parts:
        z = _infer(_unbind(h[g], transforms[n], None), *arguments)
        out = z.new_empty((groups, num_instances, *z.shape[2:])) if out is None else out
        out[g, n] = z
    return out


def _infer(unbound: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm, head: Head) -> Tensor:
    """`_demux` by PyTorch's ops: in a small tile an autograd Function with its checks costs as much as the GELU."""
    x = unbound if weight is None else F.gelu(F.linear(unbound, weight, bias))
    z = F.layer_norm(x, x.shape[-1:], *norm)
    return z if head.weight is None else head(z)


def _fused(h, transforms, weight, bias, instances, norm: Norm, head: Head) -> Tensor | None:
    """Runs the two cases that the kernel of `pair_norm` covers. None for the others: single instances with a linear
    layer, which need nothing of size N, and matrices without a linear layer, which need a matrix product and a
    LayerNorm."""
    (groups, length, width), num_instances = h.shape, transforms.shape[0]
    if weight is None:
        if transforms.dim() > 2:
            return None
        drawn = None if instances is None else instances.long()
        return apply_pair_norm(h, transforms.expand(groups, -1, -1), drawn, norm, head, "triton", product=True)
    # W (v_i * h) = (W diag v_i) h and W O_i^T h = (W O_i^T) h: one matrix product for all instances. W O_i^T is worth
    # computing if it has fewer rows than the states.
    if instances is not None or (transforms.dim() > 2 and groups * length < width):
        return None
    stacked = derived(
        f"stacked {h.dtype}", weight, [weight, transforms], lambda: _stacked(weight, transforms).to(h.dtype)
    )
    projected = F.linear(h, stacked).unflatten(-1, (num_instances, width)).transpose(1, 2)
    shift = torch.zeros_like(norm.bias) if bias is None else bias
    shift = shift.to(projected.dtype).expand(groups * num_instances, 1, -1)
    z = apply_pair_norm(projected, shift, None, norm, head, "triton")
    return z.view(groups, num_instances, length, z.shape[-1])


def _stacked(weight: Tensor, transforms: Tensor) -> Tensor:
    """Stacks W diag(v_i) or W O_i^T of all instances, (N d, d)."""
    return (weight * transforms[:, None] if transforms.dim() == 2 else weight @ transforms.mT).flatten(0, 1)


def _demux(unbound: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm, head: Head) -> Tensor:
    """(..., L, d) -> (..., L, d), or (..., L, C) with a head."""
    if weight is None:
        return _infer(unbound, weight, bias, norm, head)
    return linear_gelu_norm(unbound, weight, bias, *norm, head_weight=head.weight, head_bias=head.bias)


def _unbind(h: Tensor, transforms: Tensor, instances: Tensor | None) -> Tensor:
    """v_i * h_j, or O_i^T h_j: (G, N, L, d), or (G, L, d) with ``instances``."""
    if transforms.dim() == 2:
        if instances is not None:
            return F.embedding(instances.long(), transforms) * h  # F.embedding refuses -1
        return transforms[None, :, None] * h[:, None]
    num_instances, width, _ = transforms.shape
    stacked = derived("beside", transforms, [transforms], lambda: transforms.transpose(0, 1).reshape(width, -1))
    unbound = torch.matmul(h, stacked).unflatten(-1, (num_instances, width))
    if instances is None:
        return unbound.transpose(1, 2).contiguous()
    index = instances.long()[..., None, None].expand(-1, -1, 1, width)
    return unbound.gather(2, index).squeeze(2)
