"""What a label is: one answer, for every file and every kind of task.

A value is a number, true or false, or text; anything else is none. Equal numbers are one label, however and in
whichever file they are written: 0, 0.0 and, where there are no types (CSV, TSV), "0.0" as pandas writes it. Text is
itself: "01" is no number, and where types are known "1.0" is none either, unless the column has the number 1 as well.
NaN is no label.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

#: How a number is written that means nothing else: no zeros before it, and none behind its fraction but in "1.0".
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0+|\.\d*[1-9])?([eE][+-]\d+)?", re.ASCII)
_ANY_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: How libraries write a value that is missing.
_MISSING = frozenset({"", "nan", "NaN", "NAN", "<NA>", "NaT"})
#: Quotes, or numbers side by side, within brackets.
_LIKE_A_LIST = re.compile(r"['\"]|[\d.]\s+[-+\d.]")
_BOOLS = {"true": True, "false": False}
#: So many different values, and so few rows of each, are measurements, or not labels at all.
_MANY, _FEW = 20, 3
_LARGEST = 3.4e38  # of float32, in which models compute

Value = str | int | float | bool


@dataclass(frozen=True)
class LabelColumn:
    """The values of a file's column, and where they stand.

    Attributes:
        file, name: The names of the file and of the column, for messages.
        values: What the file has there.
        places: Where each value is: "line 3", or "row 3" where a file has no lines.
        typed: The file's format says what is a number; if it does not, all values are text.
    """

    file: str
    name: str
    values: Sequence[object]
    places: Sequence[str]
    typed: bool

    def error(self, place: str, why: str) -> ValueError:
        return ValueError(f"{self.file}: {place}: {self.name!r} {why}")

    def scalars(self) -> list[Value]:
        """One label a row.

        Raises:
            ValueError: names the first row that has none, several or something else.
        """
        found = []
        for place, value in zip(self.places, self.values, strict=True):
            if self._several(place, value) is not None:
                raise self.error(
                    place,
                    f"holds a list, {value!r}, expected one label; --problem_type multi_label_classification makes "
                    "each entry of a list a label",
                )
            found.append(self._scalar(place, value))
        return found

    def lists(self) -> list[list[Value]]:
        """Any number of labels a row.

        Raises:
            ValueError: names the first row that has no list, or one of something else than labels.
        """
        found = []
        for place, value in zip(self.places, self.values, strict=True):
            entries = self._several(place, value)
            if entries is None:
                self._scalar(place, value)  # says so where there is none
                raise self.error(place, f"must be a list of labels, got {value!r}")
            found.append([self._scalar(place, entry, " in its list") for entry in entries])
        return found

    def holds(self) -> list[int]:
        """Whether each row has the label that the column stands for: 0 or 1, true or false.

        Raises:
            ValueError: names the first row that has something else.
        """
        found = []
        for place, value in zip(self.places, self.values, strict=True):
            said = self._scalar(place, value)
            if isinstance(said, str):
                said = _BOOLS.get(said.lower(), written(said))
            if said not in (0, 1):
                raise self.error(place, f"must be 0 or 1, got {value!r}")
            found.append(int(said))
        return found

    def numbers(self) -> list[float]:
        """A number a row.

        Raises:
            ValueError: names the first row that has something else, or one that float32 has no room for.
        """
        found = []
        for place, value in zip(self.places, self.values, strict=True):
            said = self._scalar(place, value)
            if isinstance(said, str) and _ANY_NUMBER.fullmatch(said):
                said = Decimal(said)
            if isinstance(said, bool | str) or abs(said) > _LARGEST:
                raise self.error(place, f"must be a number, got {value!r}")
            found.append(float(said))
        return found

    def _several(self, place: str, value: object) -> list | None:
        try:
            return several(value, self.typed)
        except ValueError as error:
            raise self.error(place, str(error)) from None

    def _scalar(self, place: str, value: object, where: str = "") -> Value:
        try:
            return scalar(value)
        except ValueError as error:
            raise self.error(place, f"{error}{where}") from None


def scalar(value: object) -> Value:
    """A value as a label: text without spaces around it, a whole number as an int.

    Raises:
        ValueError: it is missing, NaN or infinite, or of another type.
    """
    if isinstance(value, str):
        value = value.strip()
    if value is None or (isinstance(value, str) and value in _MISSING):
        raise ValueError("has no label" + (f", but {value!r}" if value else ""))
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise ValueError(f"has no label, but {value}")
        return int(value) if value == int(value) else float(value)
    raise ValueError(f"must be text, a number, true or false, got {value!r} ({type(value).__name__})")


def several(value: object, typed: bool) -> list | None:
    """The entries of a list, also of one that Python or JSON wrote into a text where there are no types; else None.

    Raises:
        ValueError: such a text is meant to be a list and cannot be read.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if typed or not isinstance(value, str) or not (value.strip()[:1] == "[" and value.strip()[-1:] == "]"):
        return None
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    # NumPy leaves out the commas, without which Python puts the entries together.
    if found is not None and _bare(repr(found)) == _bare(value):
        return found
    if _LIKE_A_LIST.search(value):
        raise ValueError(f"looks like a list, {value!r}, but is none of JSON or Python")
    return None  # [CLS] is text


def _bare(text: str) -> str:
    return re.sub(r"\s", "", text).replace('"', "'")


def written(text: str) -> int | float | None:
    """The number that a text is and nothing else, or None."""
    if not _NUMBER.fullmatch(text):
        return None
    if text.lstrip("+-").isdecimal():
        return int(text) if len(text) < 1000 else None
    number = float(text)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


class Classes:
    """The labels of a task, by what stands for each in any file.

    Attributes:
        names: In the order of numbers if they are numbers, else of the alphabet.
    """

    def __init__(self, found: Iterable[tuple[Value, bool]]):
        """found: the labels of the training rows, each with whether its file has types."""
        found = {(type(value), value, typed) for value, typed in found}
        bools = {value for kind, value, _ in found if kind is bool}
        numbers: set[int | float] = {value for kind, value, _ in found if kind in (int, float)}
        texts = {value for kind, value, typed in found if kind is str and typed}
        bare = {value for kind, value, typed in found if kind is str and not typed} - texts
        if numbers or all(written(text) is not None for text in bare):
            numbers |= {number for text in bare if (number := written(text)) is not None}
        if bools and numbers:
            raise ValueError(
                f"has {' and '.join(sorted(map(_name, bools)))} in some rows and numbers, {min(numbers)}, in others, "
                "expected one of them"
            )
        texts = {text for text in texts | bare if written(text) not in numbers}
        texts = {text for text in texts if not bools or text.lower() not in _BOOLS}
        named: list[tuple[str, Value]] = [(_name(value), value) for value in (*numbers, *bools, *texts)]
        order = [(written(name), name, value) for name, value in named]
        by_number = all(key is not None for key, _, _ in order)
        order.sort(key=lambda entry: (entry[0] if by_number else 0, entry[1]))
        self.names = [name for _, name, _ in order]
        self._numbers = {value: i for i, (_, _, value) in enumerate(order) if type(value) in (int, float)}
        self._others = {name: i for i, (_, name, value) in enumerate(order) if type(value) not in (int, float)}
        self._bools = bools
        self.measured = sorted(numbers)

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Labels whose names are known, in this order; one that is a number is also written as one."""
        made = cls([])
        made.names = list(names)
        made._others = {name: i for i, name in enumerate(names)}
        made._numbers = {number: i for i, name in enumerate(names) if (number := written(name)) is not None}
        return made

    def id(self, value: Value) -> int | None:
        """A label's place in ``names``; None for one that is not among them."""
        if isinstance(value, bool):
            return self._others.get(_name(value), self._others.get(str(value)))
        if isinstance(value, int | float):
            return self._numbers.get(value, self._others.get(_name(value)))
        if value in self._others:
            return self._others[value]
        if self._bools and value.lower() in _BOOLS:
            return self._others.get(value.lower())
        number = written(value)
        return None if number is None else self._numbers.get(number)

    def ids(self, column: LabelColumn, values: list[Value], places: Sequence[str] | None = None) -> list[int]:
        """The same of a column's values.

        Raises:
            ValueError: names the first row that has another label.
        """
        found = []
        for place, value in zip(column.places if places is None else places, values, strict=True):
            found.append(self.id(value))
            if found[-1] is None:
                raise column.error(place, f"must be one of {shortened(self.names)}, got {_name(value)!r}")
        return found


def shortened(names: Sequence[str], most: int = 30) -> str:
    """Names as a list, of which the end is left out where there are very many."""
    if len(names) <= most:
        return f"{list(names)}"
    return f"the {len(names)} labels of the training rows ({', '.join(map(repr, names[:most]))}, ...)"


def check_few(classes: Classes, rows: int, where: str, column: str) -> None:
    """Raises ValueError for values that are measurements, or so many that they are no labels, unless one says so."""
    names, numbers = classes.names, classes.measured
    way_out = "--problem_type single_label_classification makes each of them a class"
    if numbers and len(numbers) == len(names):
        fraction = next((number for number in numbers if isinstance(number, float)), None)
        counted = numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
        if fraction is not None or (len(numbers) > _MANY and (not counted or rows < _FEW * len(numbers))):
            example = f", {fraction} among them," if fraction is not None else f" from {numbers[0]} to {numbers[-1]}"
            raise ValueError(
                f"{where}: {column!r} has {len(numbers)} different numbers{example} in {rows} rows: --problem_type "
                f"regression trains on their values, {way_out}"
            )
    elif len(names) > _MANY and rows < _FEW * len(names):
        raise ValueError(
            f"{where}: {column!r} has {len(names)} different values in {rows} rows, such as {names[0]!r}: is it the "
            f"label? {way_out}"
        )


def _name(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
