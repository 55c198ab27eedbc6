"""Whether a module is still what a fused op takes it for.

The fused ops read weights past the module's ``forward``. That is right as long as calling the module computes nothing
but what its class says, from the tensors that it holds. Adapters, quantisation, offloading, sharding, parametrizations
and hooks all change that, each in its own way; `is_plain` is the one place that knows the ways. Where it says no, the
caller runs the module instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as _nn_module

#: A parameter or buffer of one of these holds its own values; FakeTensor stands for one while a graph is traced.
_TENSORS = (Tensor, nn.Parameter, FakeTensor)


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether ``module(x)`` is what ``kind`` computes from the tensors that the module holds, and no more.

    False for a module with another ``forward`` (a wrapper's, a subclass's or the instance's own), with hooks of its own
    or of all modules, with tensors of a subclass (quantised, sharded), or with an option that changes what the weights
    mean. True for None: what is not there changes nothing.

    Args:
        module: the module whose weights are about to be read past its ``forward``.
        kind: the class that the fused op stands in for, e.g. ``nn.Linear``.

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
    forward = module.__dict__.get("forward")  # Accelerate leaves the class's own behind when it lets go of a module
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
    # The gradient of a table is dense and of the rows as they are.
    return kind is not nn.Embedding or not (module.sparse or module.scale_grad_by_freq or module.max_norm)


def table_of(embedding: nn.Module, rows: int) -> Tensor:
    """The table of an embedding module as a decoder reads it, (rows, d).

    That is its weight, hooks or not, as in Hugging Face's decoders; of a wrapper, or where the weight is not at hand,
    what the module hands out.
    """
    weight = embedding.weight if isinstance(embedding, nn.Embedding) else None
    if type(weight) in _TENSORS and weight.device.type != "meta":
        return weight
    device = next((t.device for t in (*embedding.parameters(), *embedding.buffers()) if t.device.type != "meta"), None)
    return embedding(torch.arange(rows, device=device))


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """``module.name`` for those who read it past ``forward``, fetched where Accelerate keeps it somewhere else."""
    if not hasattr(module, "_hf_hook"):
        return getattr(module, name)
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name)
