"""`is_plain`: whether a fused op may read a module's weights and skip its ``forward``.

It may if ``forward`` computes what the module's class defines, from the tensors that the module holds. Adapters,
quantisation, offloading, sharding, parametrizations and hooks each change that in their own way. `is_plain` is the one
place that knows these ways. Where it says no, the caller calls the module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as _nn_module

#: Types of parameters and buffers that hold their own values. While a graph is traced, FakeTensor stands for one.
_TENSORS = (Tensor, nn.Parameter, FakeTensor)


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether ``module(x)`` computes what the class ``kind`` defines, from the tensors that the module holds.

    False for a module with another ``forward`` (of a wrapper, of a subclass or its own), with hooks, with tensors of a
    subclass of Tensor (quantised, sharded), or with an option that changes what the weights mean. Hooks on all modules
    count. True for None, an absent module.

    Args:
        module: The module whose weights the op would read.
        kind: The class whose ``forward`` the op replaces, e.g. ``nn.Linear``.

    Example:
        >>> from torch import nn
        >>> linear = nn.Linear(2, 2)
        >>> is_plain(linear, nn.Linear)
        True
        >>> handle = linear.register_forward_hook(lambda module, inputs, output: 2 * output)
        >>> is_plain(linear, nn.Linear)
        False
    """
    if module is None:
        return True
    if type(module).forward is not kind.forward:
        return False
    forward = module.__dict__.get("forward")  # Accelerate, when removed, leaves the class's own
    if forward is not None and getattr(forward, "__func__", None) is not kind.forward:
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if _nn_module._has_any_global_hook():
        return False
    for tensors in (module._parameters, module._buffers):
        for t in tensors.values():
            if t is not None and type(t) not in _TENSORS:
                return False
    # The ops compute a dense gradient of the table's rows, and change no row in forward.
    return kind is not nn.Embedding or not (module.sparse or module.scale_grad_by_freq or module.max_norm)


def table_of(embedding: nn.Module, rows: int) -> Tensor:
    """The table (rows, d) of an embedding module, for a decoder that shares it.

    This is the module's weight, even if it has hooks, as in Hugging Face's decoders. For a wrapper, or a weight that is
    offloaded, it is the module's output for all ids.
    """
    weight = embedding.weight if isinstance(embedding, nn.Embedding) else None
    if type(weight) in _TENSORS and weight.device.type != "meta":
        return weight
    device = next((t.device for t in (*embedding.parameters(), *embedding.buffers()) if t.device.type != "meta"), None)
    return embedding(torch.arange(rows, device=device))


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """``module.name``, for code that reads it without calling the module. Fetches it where Accelerate has offloaded
    it."""
    if not hasattr(module, "_hf_hook"):
        return getattr(module, name)
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name)
