"""Who holds memory: the bytes of all tensor storages alive, from operator to operator, by holder."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageTracker(TorchDispatchMode):
    """Bytes of the tensor storages alive, from operator to operator, and who holds them when they are most.

    Storages count once however many tensors view them, from the operator that returns them until Python and autograd
    have let go. Those that exist before are made known with `adopt`; a storage's holder can be renamed with `name`
    while it lives.

    Attributes:
        current: bytes alive now. peak: the most there have been.

    Example:
        >>> import torch
        >>> with StorageTracker() as tracker:
        ...     x = torch.ones(1000)
        ...     y = x * 2
        ...     del x, y
        >>> tracker.peak, tracker.current
        (8000, 0)
    """

    def __init__(self):
        super().__init__()
        self.current = self.peak = 0
        self.scope = "outside"
        self._events: list[tuple[int, int]] = []  # (storage, bytes it adds; negative: it is gone)
        self._sizes: dict[int, int] = {}  # of the living, by number
        self._holders: dict[int, str] = {}
        self._numbers: dict[int, int] = {}  # address of a living StorageImpl -> its number
        self._watches: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.adopt(tensor, self.scope)
        return out

    def adopt(self, tensor: torch.Tensor, holder: str) -> None:
        """Counts the storage of ``tensor`` from now on, if it is not known yet."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        number = self._numbers.get(address)
        if number is not None:
            if size != self._sizes[number]:  # resized in place
                self._change(number, size - self._sizes[number])
                self._sizes[number] = size
            return
        number = len(self._holders)
        self._numbers[address], self._sizes[number], self._holders[number] = number, size, holder
        self._watches[number] = weakref.finalize(storage, self._release, number, address)
        self._change(number, size)

    def name(self, tensor: torch.Tensor, holder: str) -> None:
        """Says, afterwards, what a living storage is."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is not None:
            self._holders[number] = holder

    def at_peak(self) -> dict[str, int]:
        """Bytes by holder at the moment of the peak, most first."""
        alive, best, now = Counter(), Counter(), 0
        peak = 0
        for number, size in self._events:
            alive[self._holders[number]] += size
            now += size
            if now > peak:
                peak, best = now, alive.copy()
        return dict((+best).most_common())

    def stop(self) -> None:
        """Lets go of all storages: nothing is counted any more."""
        for watch in self._watches.values():
            watch.detach()
        self._watches.clear()

    def _release(self, number: int, address: int) -> None:
        del self._numbers[address], self._watches[number]
        self._change(number, -self._sizes.pop(number))

    def _change(self, number: int, size: int) -> None:
        self._events.append((number, size))
        self.current += size
        self.peak = max(self.peak, self.current)


class Scopes:
    """Tells a tracker who works: while ``method`` of ``owner`` runs, new storages are held by ``name``; innermost wins.

    Args:
        tracker: its `scope` is set.
        parts: name -> (owner, method). The method is replaced on this very object until `remove`.
    """

    def __init__(self, tracker: StorageTracker, parts: dict[str, tuple[object, str]]):
        self.tracker, self.parts = tracker, parts
        for name, (owner, method) in parts.items():
            setattr(owner, method, self._scoped(name, getattr(owner, method)))

    def _scoped(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def scoped(*args, **kwargs):
            outer, self.tracker.scope = self.tracker.scope, name
            try:
                return function(*args, **kwargs)
            finally:
                self.tracker.scope = outer

        return scoped

    def remove(self) -> None:
        for owner, method in self.parts.values():
            delattr(owner, method)
