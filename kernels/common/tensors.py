"""Rules about dtypes and layouts that launchers and PyTorch formulations share; nothing here needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulator_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float32, or float64 as soon as one of the tensors that are given is float64: gradcheck then runs the very kernel
    that ships."""
    for t in tensors:  # a generator would cost more than all of this
        if t is not None and t.dtype == torch.float64:
            return torch.float64
    return torch.float32


def gradient_like(t: Tensor) -> Tensor:
    """Where the gradient of ``t`` goes: in its own layout, so that the matrix product behind it reads it as it lies, if
    rows are contiguous there. `torch.empty_like` makes other strides of those of elements that share memory."""
    like = torch.empty_like(t)
    return like if like.stride(-1) == 1 else t.new_empty(t.shape)


def rowwise(t: Tensor) -> Tensor:
    """``t`` itself if its last dimension is contiguous, else a contiguous copy: kernels take every other stride."""
    return t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous()
