"""LayerNorm of rows with its statistics, as the torch backend computes it: PyTorch's own op, or one that fuses well."""

from __future__ import annotations

import torch
from torch import Tensor

PIVOT = 16  # features: what one load takes


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, summed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., d), weight and bias (d) -> (y (..., d), mean (..., 1), reciprocal standard deviation (..., 1)).

    A graph that is traced gets sums that become one loop in registers, where PyTorch's op becomes Welford's update, a
    division an element. Sums of x and of its square lose digits where the mean is large, so both are taken of x less
    a pivot: the mean of a few features is within sqrt(d / PIVOT) standard deviations of the row's, which costs two of
    seven digits at d = 768 if just these features are far out, and none as a rule.
    """
    if not torch.compiler.is_compiling():
        return torch.native_layer_norm(x, [x.shape[-1]], weight, bias, eps)
    pivot = x[..., :PIVOT].mean(-1, keepdim=True)
    shifted = x - pivot
    mean = shifted.mean(-1, keepdim=True)
    variance = shifted.square().mean(-1, keepdim=True) - mean.square()
    mean, rstd = mean + pivot, torch.rsqrt(variance.clamp(min=0) + eps)
    if summed:
        mean, rstd = once(mean), once(rstd)
    x_hat = (x - mean) * rstd
    return x_hat if weight is None else x_hat * weight + bias, mean, rstd


def once(t: Tensor) -> Tensor:
    """t, which a compiler then computes once and keeps, and not again in each loop that reads it: a view by strides
    is the one that Inductor makes of what is in memory."""
    return t.as_strided(t.shape, t.stride()) if torch.compiler.is_compiling() else t
