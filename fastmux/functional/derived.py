"""Tensors that are computed from weights alone, such as a folded head: kept while the weights do not change.

Computing one costs little beside a pass of many groups, and as much as the whole pass beside one of a single group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Value = TypeVar("Value")


class Held:
    """Values that `derived` computed. Who captures a graph that reads them keeps it for as long as the graph."""

    def __init__(self) -> None:
        # Owner -> (name, autocast's dtypes, weights by identity) -> (the weights' versions, the weights, the value)
        self.by_owner: WeakIdKeyDictionary = WeakIdKeyDictionary()


#: What is held, and whether it outlives the block. Each thread has its own: another thread may train meanwhile.
_values: ContextVar[tuple[Held, bool] | None] = ContextVar("fastmux_derived", default=None)


@contextlib.contextmanager
def fixed_weights(held: Held | None = None) -> Iterator[None]:
    """The caller promises that no weight changes within the block, in this thread: `derived` computes each value once.

    Args:
        held: Where values are kept. By default they are dropped with the outermost block.

    Example:
        >>> import torch
        >>> from fastmux.functional import derived, fixed_weights
        >>> weight, calls = torch.ones(2), []
        >>> with fixed_weights():
        ...     for _ in range(3):
        ...         with torch.no_grad():
        ...             doubled = derived("doubled", weight, [weight], lambda: calls.append(1) or 2 * weight)
        >>> len(calls), doubled
        (1, tensor([2., 2.]))
    """
    before = _values.get()
    token = _values.set((held, True) if held is not None else before or (Held(), False))
    try:
        yield
    finally:
        _values.reset(token)


def derived(name: Hashable, owner: object, weights: Sequence[Tensor | None], compute: Callable[[], Value]) -> Value:
    """The value of ``compute()``. Within `fixed_weights` it is kept until one of the weights is written to.

    Nothing is kept while gradients are recorded, nor in a graph that is traced. A graph that CUDA captures may outlive
    the block: it reads what a caller's `Held` has, and computes all else in each launch.

    Args:
        name: The value's name, which tells the values of one owner apart.
        owner: A module, or the first of the weights. The value is dropped when the owner is.
        weights: All tensors that ``compute`` reads; none for a constant.
        compute: Computes the value.
    """
    # One `return`: PyTorch's check of a trace, without gradients, wants ops from the lines of the trace.
    # What is compiled reads no context variable.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or (found := _values.get()) is None:
        return compute()
    held, outlives = found
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if capturing and not outlives:
        return compute()
    given = [t for t in weights if t is not None]
    versions = [0 if t.is_inference() else t._version for t in given]
    autocast = tuple(torch.get_autocast_dtype(k) for k in ("cpu", "cuda") if torch.is_autocast_enabled(k))
    key, known = (name, autocast, *map(id, given)), held.by_owner.setdefault(owner, {})
    if key not in known or known[key][0] != versions:
        if capturing:
            return compute()  # in the graph's memory, which is only its own
        others = [t for t in given if t is not owner]
        known[key] = versions, others, compute()
    return known[key][2]
