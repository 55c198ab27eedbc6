"""What depends on weights alone: made in every call, or once while somebody promises that the weights stay as they are.

One matrix product's operand laid out anew, an index prefix embedded and multiplexed, a head folded: each is little
beside a pass of many groups, and as long as the pass itself beside one of one group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Value = TypeVar("Value")

#: Owner -> (what, autocast's dtypes, weights by identity) -> (their versions, the weights, the value). Of the thread
#: that holds: others may train meanwhile.
_values: ContextVar[WeakIdKeyDictionary | None] = ContextVar("fastmux_held", default=None)


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Within the block, in this thread, no weight changes: `held` computes once.

    Example:
        >>> import torch
        >>> from fastmux.functional import held, holding
        >>> weight, calls = torch.ones(2), []
        >>> with holding():
        ...     for _ in range(3):
        ...         with torch.no_grad():
        ...             doubled = held("doubled", weight, [weight], lambda: calls.append(1) or 2 * weight)
        >>> len(calls), doubled
        (1, tensor([2., 2.]))
    """
    before = _values.get()
    token = _values.set(WeakIdKeyDictionary() if before is None else before)
    try:
        yield
    finally:
        _values.reset(token)


def held(what: str, owner: object, weights: Sequence[Tensor | None], compute: Callable[[], Value]) -> Value:
    """``compute()``, or within `holding` what it gave before for the same weights, unless one was written to since.

    Nothing is kept while gradients are recorded, nor in a graph that is traced or that CUDA captures, which may outlive
    the block.

    Args:
        what: sets one value of an owner apart from another.
        owner: a module, or the first of the weights: the value goes when it does.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return compute()
    values = _values.get()
    if values is None or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return compute()
    given = [t for t in weights if t is not None]
    versions = [0 if t.is_inference() else t._version for t in given]
    autocast = tuple(torch.get_autocast_dtype(k) for k in ("cpu", "cuda") if torch.is_autocast_enabled(k))
    key, known = (what, autocast, *map(id, given)), values.setdefault(owner, {})
    if key not in known or known[key][0] != versions:
        others = [t for t in given if t is not owner]
        known[key] = versions, others, compute()
    return known[key][2]
