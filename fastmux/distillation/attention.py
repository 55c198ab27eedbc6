"""Training steps under bfloat16 autocast, on a CPU with attention in float32, which is quicker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def attention_in_float32(bf16: bool) -> contextlib.AbstractContextManager:
    """A context in which the attention of a model on a CPU reads bfloat16 and writes it, but computes in float32.

    PyTorch's fused attention for a CPU, which runs where there is no dropout, is slow backward in bfloat16. In float32
    a step of a MiniLM takes 0.57 of the time with 16 positions, 0.76 with 128 and 0.95 with 256 (torch 2.13, a Zen 4;
    ``bench/bf16_steps.py``). Linear layers stay in bfloat16.

    Args:
        bf16: Whether the step is under bfloat16 autocast; without, or on a GPU, nothing is changed.

    Example:
        >>> import torch
        >>> from fastmux.distillation.attention import attention_in_float32
        >>> q, k, v = torch.randn(3, 1, 2, 5, 4, dtype=torch.bfloat16)
        >>> with attention_in_float32(True):
        ...     found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        >>> found.dtype, found.shape
        (torch.bfloat16, torch.Size([1, 2, 5, 4]))
    """
    return _AttentionInFloat32() if bf16 else contextlib.nullcontext()


@contextlib.contextmanager
def bfloat16_steps(device: torch.device, bf16: bool) -> Iterator[None]:
    """A training step's forward: under bfloat16 autocast, with `attention_in_float32` on a CPU, if ``bf16`` is set.

    Example:
        >>> import torch
        >>> from fastmux.distillation.attention import bfloat16_steps
        >>> with bfloat16_steps(torch.device("cpu"), True):
        ...     made = torch.nn.Linear(3, 2)(torch.ones(1, 3))
        >>> made.dtype
        torch.bfloat16
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), attention_in_float32(bf16):
        yield


class _AttentionInFloat32(TorchFunctionMode):
    """Sees each call of `torch.nn.functional.scaled_dot_product_attention`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        if query.device.type != "cpu" or query.dtype != torch.bfloat16:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):  # which would cast them back
            found = func(*map(_float32, args), **{name: _float32(value) for name, value in kwargs.items()})
        return found.to(query.dtype)


def _float32(value):
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
