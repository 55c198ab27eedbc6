"""Settings: fields of a dataclass that know which values they allow, from YAML files and from command lines."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

#: Arguments of the Hugging Face Trainer that every program here decides.
DECIDED = {
    "label_smoothing_factor": "it would replace the model's own loss",
    "load_best_model_at_end": "the last step is scored: choosing by evaluation data would flatter it",
    "remove_unused_columns": "the program prepares the columns",
    "do_eval": "all that is trained is scored",
    "push_to_hub": "push a model's folder afterwards, with `hf upload`",
}


def option(default: object = None, **metadata):
    """A field of a dataclass of settings, with what `transformers.HfArgumentParser` reads, such as ``choices``."""
    return field(default=default, metadata=metadata)


def documented(**words: Iterable[str]) -> Callable[[type], type]:
    """What a dataclass of settings says of its fields becomes the help of their arguments.

    Args:
        words: Lists that stand in the docstring as "{NAME}".

    Example:
        >>> from dataclasses import dataclass, fields
        >>> from training.settings import documented
        >>> @documented(colours=["red", "blue"])
        ... @dataclass
        ... class Settings:
        ...     \"""Settings.
        ...
        ...     Attributes:
        ...         colour: One of {colours}.
        ...     \"""
        ...
        ...     colour: str = "red"
        >>> fields(Settings)[0].metadata["help"]
        'One of red, blue.'
    """

    def document(kind: type) -> type:
        text = inspect.getdoc(kind).partition("Attributes:\n")[2]
        found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
        named = {name: ", ".join(own) for name, own in words.items()}
        helps = {name: " ".join(said.split()).format(**named) for name, said in found}
        for own in fields(kind):
            own.metadata = {"help": helps[own.name], **own.metadata}
        return kind

    return document


def check(settings: Any, prefix: str = "") -> None:
    """Raise ValueError for a value that is not allowed.

    Args:
        settings: A dataclass. Its class may have ``limits``: an interval, such as "[1, inf)" or "(0, 1]", and the names
            of the fields, with spaces between them, whose values lie in it if they are not None.
        prefix: Stands before a name in messages: "--" of a command line.
    """
    for own in fields(settings):
        value, choices = getattr(settings, own.name), own.metadata.get("choices")
        # Those of a command line are checked where it is parsed.
        if choices and not prefix and value is not None and value not in choices:
            named = ", ".join(map(repr, choices))
            raise ValueError(f"{prefix}{own.name} is {value!r}, expected one of {named}")
    for limits, names in getattr(settings, "limits", {}).items():
        low, high = limits[1:-1].split(", ")
        wanted = f"in {limits}" if high != "inf" else f"at least {low}" if limits[0] == "[" else f"above {low}"
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not _inside(value, limits):
                raise ValueError(f"{prefix}{name} must be {wanted}, got {value}")


def _inside(value: float, limits: str) -> bool:
    low, high = map(float, limits[1:-1].split(", "))
    above = value >= low if limits[0] == "[" else value > low
    return above and (value <= high if limits[-1] == "]" else value < high)


def read_yaml(folder: Path, name: str, what: str) -> tuple[Path, dict]:
    """What ``folder/NAME.yaml`` holds or, if there is none, the file ``name``; and which file that is.

    Args:
        what: The kind of file, for messages.

    Raises:
        ValueError: There is no such file, it is not YAML, or it does not have keys.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"{what} {name!r} is neither one of {known} nor a file that can be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have lines 'key: value', got {values!r}")
    return path, values


def check_keys(keys: Iterable[object], known: Iterable[str], where: str, what: str) -> None:
    """Raise ValueError for a key that is not known; the message, which begins with ``where``, has the closest one."""
    known = list(known)
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            raise ValueError(f"{where}: there is no {key!r} in a {what}; the closest is {close[0]!r}")


def types_of(kind: type) -> dict[str, tuple[type, ...]]:
    """The types that each field of a dataclass may have."""
    hints, found = get_type_hints(kind), {}
    for own in fields(kind):
        hint = hints[own.name]
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        plain = [get_origin(part) or part for part in parts]
        found[own.name] = tuple(dict if part is Mapping else part for part in plain)
    return found


def typed(where: str, key: str, value: object, *kinds: type) -> Any:
    """A value of one of these types; a number becomes the float, a list the tuple that is asked for.

    Raises:
        ValueError: The value is of another type; the message begins with ``where``.
    """
    if type(value) in kinds:
        return value
    if tuple in kinds and type(value) is list:
        return tuple(value)
    if float in kinds and type(value) in (int, str):
        try:
            return float(value)  # to YAML, 2e-3 is text
        except ValueError:
            pass
    named = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    raise ValueError(f"{where}: {key} must be of type {named}, got {value!r}")


def build(kind: type, values: Mapping[str, object], where: str, what: str, **more: object) -> Any:
    """A dataclass made of values by name, and of ``more``, which are right as they are.

    Raises:
        ValueError: A key is unknown, or a value is of another type or not allowed; the message begins with ``where``.
    """
    kinds = {name: types for name, types in types_of(kind).items() if name not in more}
    check_keys(values, kinds, where, what)
    values = {key: typed(where, key, value, *kinds[key]) for key, value in values.items()}
    try:
        made = kind(**values, **more)
        check(made)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return made


def run_program(main: Callable[[], object]) -> None:
    """Run a program whose bad input ends it with one sentence."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
