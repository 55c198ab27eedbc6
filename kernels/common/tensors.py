"""Rules for dtypes and layouts that launchers and the torch backend share. Nothing here needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulator_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if one of the tensors is float64, else float32. With float64 inputs gradcheck runs the kernels
    themselves."""
    for t in tensors:  # a generator expression would take longer
        if t is not None and t.dtype == torch.float64:
            return torch.float64
    return torch.float32


def gradient_like(t: Tensor) -> Tensor:
    """An empty tensor for the gradient of ``t``. It has the layout of ``t``, which the next matrix product reads
    without a copy, if rows are contiguous in it. For elements that share memory `torch.empty_like` chooses other
    strides."""
    like = torch.empty_like(t)
    return like if like.stride(-1) == 1 else t.new_empty(t.shape)


def rowwise(t: Tensor) -> Tensor:
    """``t`` if its last dimension is contiguous, else a contiguous copy. Kernels accept any stride of the other
    dimensions."""
    return t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous()
