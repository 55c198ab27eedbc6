"""Settings: dataclasses that describe each field in their docstring, and give each field the values that it allows.

Python checks values by that, and command lines take options, their help and their limits from it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Number:
    """The numbers from ``least`` to ``most``; without ``least`` itself where they are ``above``, and without ``most``
    where they are ``below``."""

    whole: bool
    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return low and high and value < math.inf

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        if self.most < math.inf:
            low = f"above {self.least}," if self.above else f"from {self.least}"
            high = "below" if self.below else "up to" if self.above else "to"
            return f"{kind} {low} {'to ' * (self.below and not self.above)}{high} {self.most}"
        return f"{kind} {'above' if self.above else 'of at least'} {self.least}"

    def parse(self, text: str) -> float:
        """The number that a text is; ValueError if it is none."""
        return int(text) if self.whole else float(text)


@dataclass(frozen=True)
class OneOf:
    """Some words."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.words))}"

    def parse(self, text: str) -> str:
        """The text."""
        return text


def integer(default: object, least: int, most: float = math.inf) -> Any:
    """A field for integers."""
    return field(default=default, metadata={"allowed": Number(True, least, most)})


def number(
    default: object, least: float = 0, most: float = math.inf, *, above: bool = False, below: bool = False
) -> Any:
    """A field for numbers."""
    return field(default=default, metadata={"allowed": Number(False, least, most, above, below)})


def one_of(default: object, words: tuple[str, ...]) -> Any:
    """A field for some words."""
    return field(default=default, metadata={"allowed": OneOf(words)})


def check_fields(settings: Any) -> None:
    """Raise ValueError, which names the field, for a value that is not allowed. None is allowed as a default."""
    for setting in fields(settings):
        value, allowed = getattr(settings, setting.name), setting.metadata.get("allowed")
        if allowed is None or (value is None and setting.default is None):
            continue
        several = isinstance(value, tuple) and setting.type.startswith("tuple")
        if not all(one in allowed for one in (value if several else (value,))):
            raise ValueError(f"{setting.name} is {value!r}, expected {allowed}")


def settings_of(kind: type[T], settings: T | None, options: Mapping[str, object], caller: str) -> T:
    """The settings that a function was given: ``settings`` itself, or the fields of ``kind`` in ``options``.

    Args:
        caller: The function's name, for errors.

    Raises:
        ValueError: Both were given; an option is no field; a value is not allowed.
    """
    if settings is not None:
        if options:
            raise ValueError(f"{', '.join(options)} given beside settings; set it there")
        return settings
    known = [setting.name for setting in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{caller} has no option {', '.join(unknown)}, expected one of {', '.join(known)}")
    return kind(**options)


def descriptions(kind: type) -> dict[str, str]:
    """The description of each field in the docstrings of a dataclass and those that it extends, on one line; none if
    Python strips docstrings.

    Example:
        >>> from fastmux.labelling.settings import LabellingSettings
        >>> from fastmux.settings import descriptions
        >>> descriptions(LabellingSettings)["pair_column"]
        'The column of the second text, for a model of pairs.'
    """
    inherited = [descriptions(base) for base in kind.__bases__ if is_dataclass(base)]
    _, _, listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", listed, re.MULTILINE)
    own = {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    return {name: text for known in (*inherited, own) for name, text in known.items()}
