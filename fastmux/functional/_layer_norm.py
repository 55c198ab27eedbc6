"""LayerNorm of rows and its statistics on the torch backend: PyTorch's op or, in a traced graph, one that fuses
well."""

from __future__ import annotations

import torch
from torch import Tensor

PIVOT = 16  # features that one load takes


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, summed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., d), weight and bias (d) -> (y (..., d), mean (..., 1), reciprocal standard deviation (..., 1)).

    In a traced graph PyTorch's op becomes Welford's update, with a division per element. The sums here become one loop
    in registers. Sums of x and of x^2 lose digits where the mean is large, so a pivot is subtracted first, the mean of
    a few features. It is within sqrt(d / PIVOT) standard deviations of the row's mean. At d = 768 that costs at worst
    two of seven digits, if just these features are outliers, and normally none.
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
    """Returns t, and makes a compiler compute it once rather than again in every loop that reads it. Inductor keeps a
    tensor in memory if a view by strides is taken of it."""
    return t.as_strided(t.shape, t.stride()) if torch.compiler.is_compiling() else t
