"""A name for every multiplexer and demultiplexer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator


class Registry:
    """Classes by name. ``register`` is open to third parties: the class can then be named in a `TMuxConfig`."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator. Raises ValueError if the name is taken."""

        def add(cls: type) -> type:
            if name in self._classes:
                raise ValueError(f"a {self.kind} named {name!r} is registered already: {self._classes[name]!r}")
            self._classes[name] = cls
            return cls

        return add

    def check(self, name: str) -> None:
        """Raises ValueError, with the known names and the closest one, if ``name`` is not registered."""
        if name not in self._classes:
            closest = difflib.get_close_matches(str(name), self._classes, n=1)
            hint = f"; did you mean {closest[0]!r}?" if closest else ""
            known = ", ".join(repr(n) for n in sorted(self._classes))
            raise ValueError(f"{self.kind} is {name!r}, expected one of {known}{hint}")

    def __getitem__(self, name: str) -> type:
        self.check(name)
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)
