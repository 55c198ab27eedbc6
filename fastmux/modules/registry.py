"""A name for every multiplexer and demultiplexer."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping


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

    def check(self, name: str, options: Mapping[str, object] = {}) -> None:
        """Raises ValueError, with the known names and the closest one, if ``name`` is not registered or its class takes
        no such keyword arguments. Their values are checked by the class."""
        if name not in self._classes:
            raise ValueError(f"{self.kind} is {name!r}, expected one of {known(name, self._classes)}")
        for option in options:
            allowed = keywords(self._classes[name])
            if option not in allowed:
                raise ValueError(
                    f"{self.kind}_options has {option!r}; the options of {self.kind} {name!r} are "
                    f"{known(option, allowed) or 'none'}"
                )

    def __getitem__(self, name: str) -> type:
        self.check(name)
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)


def keywords(cls: type) -> set[str]:
    """The keyword-only arguments of a class, those that it hands on as ``**options`` to its bases included."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names


def known(name: str, names: Iterable[str]) -> str:
    """The names, for a message, and which of them ``name`` may have meant."""
    closest = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    return ", ".join(repr(n) for n in sorted(names)) + hint
