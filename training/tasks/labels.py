"""What a label is, for every file and every kind of task.

A value is a number, true or false, or text; anything else is none. Equal numbers are one label, however and in
whichever file they are written: 0, 0.0 and, where there are no types (CSV, TSV), "0.0" as pandas writes it. Text is
itself: "01" is no number, and where types are known "1.0" is none either, unless the column has the number 1 as well.
NaN is no label.

Functions here take a value of a column and whether the file's format has types, and raise a ValueError whose message
goes on after the column's name: "must be 0 or 1, got 2".
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Sequence
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


def scalar(value: object, typed: bool = True) -> Value:
    """A value as a label: text without spaces around it, a whole number as an int.

    Raises:
        ValueError: The value is missing, NaN or infinite, or of another type.
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


def one_label(value: object, typed: bool) -> Value:
    """`scalar` of a value that is no list."""
    if _entries(value, typed) is not None:
        raise ValueError(
            f"holds a list, {value!r}, expected one label; --problem_type multi_label_classification makes each entry "
            "of a list a label"
        )
    return scalar(value)


def several_labels(value: object, typed: bool) -> list[Value]:
    """The labels of a list, which may be empty."""
    entries = _entries(value, typed)
    if entries is None:
        raise ValueError(f"must be a list of labels, got {scalar(value)!r}")
    try:
        return list(map(scalar, entries))
    except ValueError as error:
        raise ValueError(f"{error} in its list") from None


def yes_or_no(value: object, typed: bool) -> int:
    """1 where a row has the label that the column stands for, 0 where it has not."""
    said = scalar(value)
    if isinstance(said, str):
        said = _BOOLS.get(said.lower(), written(said))
    if said not in (0, 1):
        raise ValueError(f"must be 0 or 1, got {value!r}")
    return int(said)


def measurement(value: object, typed: bool) -> float:
    """A number, for which float32 has room."""
    said = scalar(value)
    if isinstance(said, str) and _ANY_NUMBER.fullmatch(said):
        said = Decimal(said)
    if isinstance(said, bool | str) or abs(said) > _LARGEST:
        raise ValueError(f"must be a number, got {value!r}")
    return float(said)


def _entries(value: object, typed: bool) -> list | None:
    """The entries of a list, also of one that Python or JSON wrote into a text where there are no types; else None."""
    if isinstance(value, list):
        return value
    text = value.strip() if isinstance(value, str) and not typed else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    # NumPy leaves out the commas, without which Python puts the entries together.
    if found is not None and _bare(repr(found)) == _bare(text):
        return found
    if _LIKE_A_LIST.search(text):
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
    """The labels of a task, and which of them a value in any file is.

    Attributes:
        names: The names of the labels, in the order of numbers if they are numbers, else of the alphabet.
        numbers: The labels that are numbers, in their order.
    """

    def __init__(self, found: Iterable[tuple[Value, bool]]):
        """Finds the classes.

        Args:
            found: The labels of the training rows, each with whether its file has types.

        Raises:
            ValueError: Some labels are true or false, and others are numbers.
        """
        found = {(type(value), value, typed) for value, typed in found}
        bools = {_name(value) for kind, value, _ in found if kind is bool}
        numbers: set[int | float] = {value for kind, value, _ in found if kind in (int, float)}
        texts = {value for kind, value, typed in found if kind is str and typed}
        bare = {value for kind, value, typed in found if kind is str and not typed} - texts
        if numbers or all(written(text) is not None for text in bare):
            numbers |= {number for text in bare if (number := written(text)) is not None}
        if bools and numbers:
            raise ValueError(
                f"has {' and '.join(sorted(bools))} in some rows and numbers, {min(numbers)}, in others, expected one "
                "of them"
            )
        texts = {text for text in texts | bare if written(text) not in numbers}
        texts = {text for text in texts if not bools or text.lower() not in _BOOLS}
        keys: list[int | float | str] = [*numbers, *bools, *texts]
        by_number = all(written(str(key)) is not None for key in keys)
        keys.sort(key=lambda key: (written(str(key)) if by_number else 0, str(key)))
        self.names = list(map(str, keys))
        self.numbers = sorted(numbers)
        #: A label's place by the number, or the text, that it is; of true and false by "true" and "false".
        self._places = {key: place for place, key in enumerate(keys)}
        self._bools = bools

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Labels whose names are known, in this order; one that is a number may be given as one."""
        made = cls([])
        made.names = list(names)
        numbers = {number: i for i, name in enumerate(names) if (number := written(name)) is not None}
        made._places = {**{name: i for i, name in enumerate(names)}, **numbers}
        return made

    def id(self, value: object, typed: bool = True) -> int:
        """The place in ``names`` of the one label that a value is.

        Raises:
            ValueError: The value is no label, or none of these.
        """
        label = one_label(value, typed)
        if isinstance(label, bool):
            keys: list = [_name(label), str(label)]
        elif isinstance(label, str):
            keys = [label, label.lower() if self._bools else label, written(label)]
        else:
            keys = [label, str(label)]
        place = next((self._places[key] for key in keys if key in self._places), None)
        if place is None:
            raise ValueError(f"must be one of {shortened(self.names)}, got {_name(label)!r}")
        return place

    def ids(self, value: object, typed: bool) -> list[int]:
        """A 0 or 1 for each label: whether it is in the list that a value is, in which order and how often means
        nothing."""
        held = {self.id(label) for label in several_labels(value, typed)}
        return [int(place in held) for place in range(len(self.names))]


def shortened(names: Sequence[str], most: int = 30) -> str:
    """Names as a list, of which the end is left out where there are very many."""
    if len(names) <= most:
        return f"{list(names)}"
    return f"the {len(names)} labels of the training rows ({', '.join(map(repr, names[:most]))}, ...)"


def check_few(classes: Classes, rows: int) -> None:
    """Raises ValueError for values that are measurements, or so many that they are no labels."""
    names, numbers = classes.names, classes.numbers
    way_out = "--problem_type single_label_classification makes each of them a class"
    if numbers and len(numbers) == len(names):
        fraction = next((number for number in numbers if isinstance(number, float)), None)
        counted = numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
        if fraction is not None or (len(numbers) > _MANY and (not counted or rows < _FEW * len(numbers))):
            example = f", {fraction} among them," if fraction is not None else f" from {numbers[0]} to {numbers[-1]}"
            raise ValueError(
                f"has {len(numbers)} different numbers{example} in {rows} rows: --problem_type regression trains on "
                f"their values, {way_out}"
            )
    elif len(names) > _MANY and rows < _FEW * len(names):
        raise ValueError(
            f"has {len(names)} different values in {rows} rows, such as {names[0]!r}: is it the label? {way_out}"
        )


def _name(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
