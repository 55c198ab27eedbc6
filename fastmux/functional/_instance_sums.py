"""Sums over instances on the torch backend: ``sum_i v_i * x_i`` and the gradient of the vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._blocking import blocks


def weighted_sum(x: Tensor, vectors: Tensor) -> Tensor:
    """x (G, N, L, d), vectors (N, d) -> (G, L, d) in the vectors' dtype: ``y[g, l] = sum_i vectors[i] * x[g, i, l]``.

    The product (G, N, L, d) is never written. In memory x is an image of N by L pixels with d channels, channels last.
    The sum is its depthwise convolution with a kernel of N by 1 pixels, which takes one pass with accumulators in
    registers.
    """
    groups, _, length, width = x.shape
    if torch.compiler.is_compiling():  # the compiler fuses this into one loop
        return (x.to(vectors.dtype) * vectors[:, None]).sum(1)
    if _has_convolution(x, vectors):
        return F.conv2d(x.permute(0, 3, 1, 2), _kernel(vectors), groups=width).permute(0, 2, 3, 1)[:, 0]
    y = x.new_empty((groups, length, width), dtype=vectors.dtype)
    weights = vectors.unbind(0)
    for g, _ in blocks(x, groups, 1, length * width):
        rows, total = x[g].unbind(1), y[g]
        torch.mul(rows[0].to(y.dtype), weights[0], out=total)
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            total.addcmul_(row.to(y.dtype), weight)
    return y


def weighted_sum_dv(x: Tensor, dy: Tensor) -> Tensor:
    """x (G, N, L, d), dy (G, L, d) -> (N, d) in the dtype of dy: ``dv[i] = sum_{g, l} dy[g, l] * x[g, i, l]``."""
    if torch.compiler.is_compiling():
        return (x.to(dy.dtype) * dy[:, None]).sum((0, 2))
    if _has_convolution(x, dy):
        image, upstream = x.permute(0, 3, 1, 2), dy[:, None].permute(0, 3, 1, 2)
        kernel = x.new_empty((x.shape[3], 1, x.shape[1], 1))  # only its shape is read
        dv = torch.ops.aten.convolution_backward(
            upstream, image, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], x.shape[3], [False, True, False]
        )[1]
        return dv[:, 0, :, 0].t()
    return torch.stack([(rows.to(dy.dtype) * dy).sum((0, 1)) for rows in x.unbind(1)])


def _kernel(vectors: Tensor) -> Tensor:
    return vectors.t()[:, None, :, None].contiguous()


def _has_convolution(x: Tensor, other: Tensor) -> bool:
    """Whether oneDNN has a convolution for these tensors."""
    return (
        x.device.type == "cpu"
        and x.dtype == other.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )
