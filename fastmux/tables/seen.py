"""Find the Arrow type that holds every value of a JSON column exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow

_NAMES = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
#: A double holds every integer up to this one exactly.
_EXACT = 2**53
#: The most different keys of a column's objects. With more, the keys are data, and a table has no such columns.
_MOST_KEYS = 10_000


class CannotHoldError(ValueError):
    """A value that an output cannot hold; the message names its column and row."""


@dataclass
class Seen:
    """A summary of the values seen so far in a column, or nested in its lists and objects.

    Attributes:
        name: The column's name, followed by the keys that lead here: "user.tags[]".
        first: For each Python type the first row with a value of it.
        least, most: The smallest and the largest integer, each with its row.
        item: A summary of what lists contain.
        keys: A summary of the values under each key of objects.
    """

    name: str
    first: dict[type, int] = field(default_factory=dict)
    least: tuple[int, int] = (0, 0)
    most: tuple[int, int] = (0, 0)
    item: Seen | None = None
    keys: dict[str, Seen] = field(default_factory=dict)

    def add(self, values: Sequence, rows: Sequence[int]) -> None:
        """Take further values into account, each with the number of its row.

        Raises:
            CannotHoldError: No type holds one of them together with the earlier values.
        """
        for kind in set(map(type, values)) - {type(None)}:
            own = [(value, row) for value, row in zip(values, rows, strict=True) if type(value) is kind]
            self._of_kind(kind, own)

    def _of_kind(self, kind: type, own: list[tuple]) -> None:
        row = own[0][1]
        for other, at in self.first.items():
            if other is not kind and {other, kind} != {int, float}:
                (one, a), (two, b) = sorted([(kind, row), (other, at)], key=lambda pair: pair[1])
                raise CannotHoldError(
                    f"column {self.name!r} is {_NAMES[two]} in row {b}, and {_NAMES[one]} in row {a}: a column of a "
                    "table holds one type"
                )
        self.first.setdefault(kind, row)
        if kind is int:
            least, most = min(own), max(own)
            self.least, self.most = min(self.least, least), max(self.most, most)
        elif kind is float:
            if wrong := [row for value, row in own if not math.isfinite(value)]:
                raise CannotHoldError(f"column {self.name!r} of row {wrong[0]} is a number beyond a double")
        elif kind is str:
            self._check_text(own)
        elif kind is list:
            self.item = self.item or Seen(f"{self.name}[]")
            self.item.add([v for values, _ in own for v in values], [row for values, row in own for _ in values])
        elif kind is dict:
            for key in dict.fromkeys(key for value, _ in own for key in value):
                if key not in self.keys:
                    self.keys[key] = Seen(f"{self.name}.{key}")
                holds = [(value[key], row) for value, row in own if key in value]
                self.keys[key].add([value for value, _ in holds], [row for _, row in holds])
            if len(self.keys) > _MOST_KEYS:
                raise CannotHoldError(
                    f"column {self.name!r} has objects of more than {_MOST_KEYS} different keys by row {own[-1][1]}"
                )

    def _check_text(self, own: list[tuple]) -> None:
        try:
            "".join(value for value, _ in own).encode()
        except UnicodeEncodeError:
            row = next(row for value, row in own if not _is_whole(value))
            raise CannotHoldError(f"column {self.name!r} of row {row} holds half a character") from None

    def type(self) -> pyarrow.DataType:
        """The type that holds all values. Integers beside fractions are doubles; objects have the keys of all objects.

        Raises:
            CannotHoldError: An integer fits no type, or no double although there are fractions.
        """
        if float in self.first:
            for value, row in (self.least, self.most):
                if abs(value) > _EXACT:
                    raise CannotHoldError(
                        f"column {self.name!r} of row {row} is {value}, more than a double holds, and row "
                        f"{self.first[float]} has a fraction"
                    )
            return pyarrow.float64()
        if int in self.first:
            return self._integers()
        if list in self.first:
            return pyarrow.list_(self.item.type())
        if dict in self.first:
            return pyarrow.struct([(key, seen.type()) for key, seen in self.keys.items()])
        return {bool: pyarrow.bool_(), str: pyarrow.string()}.get(next(iter(self.first), None), pyarrow.null())

    def _integers(self) -> pyarrow.DataType:
        (least, low), (most, high) = self.least, self.most
        if least >= -(2**63) and most < 2**63:
            return pyarrow.int64()
        if least >= 0 and most < 2**64:
            return pyarrow.uint64()
        value, row = (most, high) if most >= 2**63 else (least, low)
        beside = f" beside {least} in row {low}" if value == most and least < 0 and most < 2**64 else ""
        raise CannotHoldError(f"column {self.name!r} of row {row} is {value}, which no integer type holds{beside}")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
