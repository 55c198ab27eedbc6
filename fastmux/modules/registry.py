"""`Registry`: multiplexers and demultiplexers by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping


class Registry:
    """Classes by name. Register a class of your own to use its name in a `TMuxConfig`."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Returns a class decorator that registers a class. Raises ValueError if the name is taken."""

        def add(cls: type) -> type:
            if name in self._classes:
                raise ValueError(f"a {self.kind} named {name!r} is registered already: {self._classes[name]!r}")
            self._classes[name] = cls
            return cls

        return add

    def check(self, name: str, options: Mapping[str, object] = {}) -> None:
        """Raises ValueError if ``name`` is not registered, or its class does not take the keyword arguments
        ``options``. The message lists the known names and the closest one. The class itself checks the values."""
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
    """The names of a class's keyword-only arguments, with those that it passes on to its bases as ``**options``."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names


def known(name: str, names: Iterable[str]) -> str:
    """Lists the names for an error message, with the one that ``name`` is closest to."""
    closest = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    return ", ".join(repr(n) for n in sorted(names)) + hint
