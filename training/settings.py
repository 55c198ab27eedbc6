"""Settings from YAML files and from Hugging Face's command lines; `fastmux.settings` says what a field allows."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from fastmux.settings import OneOf, descriptions

#: Arguments of the Hugging Face Trainer that every program here decides.
DECIDED = {
    "label_smoothing_factor": "it would replace the model's own loss",
    "load_best_model_at_end": "the last step is scored: choosing by evaluation data would flatter it",
    "remove_unused_columns": "the program prepares the columns",
    "do_eval": "all that is trained is scored",
    "push_to_hub": "push a model's folder afterwards, with `hf upload`",
}


def documented(**words: Iterable[str]) -> Callable[[type], type]:
    """Make a dataclass of `fastmux.settings` one that `transformers.HfArgumentParser` takes: what its docstring says of
    the fields is their help, and what they allow is its ``allowed``, by name.

    Args:
        words: Lists that stand in the docstring as "{NAME}".
    """

    def document(kind: Any) -> type:
        said, named = descriptions(kind), {name: ", ".join(own) for name, own in words.items()}
        inherited = getattr(kind, "allowed", {})
        kind.allowed = inherited | {f.name: f.metadata["allowed"] for f in fields(kind) if "allowed" in f.metadata}
        for own in fields(kind):
            more = {key: value for key, value in own.metadata.items() if key != "allowed"}
            if isinstance(allowed := kind.allowed.get(own.name), OneOf):
                more["choices"] = list(allowed.words)
            own.metadata = {"help": said[own.name].format(**named), **more}
        return kind

    return document


def check(settings: Any, prefix: str = "") -> None:
    """Raise ValueError for a value that `documented` settings do not allow; ``prefix`` stands before its name."""
    for name, allowed in settings.allowed.items():
        value = getattr(settings, name)
        # Choices on a command line are checked where that is parsed.
        if value is None or (prefix and isinstance(allowed, OneOf)):
            continue
        if not all(one in allowed for one in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{prefix}{name} is {value!r}, expected {allowed}")


def read_yaml(folder: Path, name: str, what: str) -> tuple[Path, dict]:
    """Reads ``folder/NAME.yaml`` or, if there is none, the file ``name``. Returns the path and the content.

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
    """Raise ValueError for an unknown key. The message begins with ``where`` and names the closest known key."""
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
    """A value that has one of these types. An integer may become a float, and a list a tuple.

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
    """Makes a dataclass of values by name, which are checked, and of ``more``, which are not.

    Raises:
        ValueError: A key is unknown, or a value is of another type or not allowed; the message begins with ``where``.
    """
    kinds = {name: types for name, types in types_of(kind).items() if name not in more}
    check_keys(values, kinds, where, what)
    values = {key: typed(where, key, value, *kinds[key]) for key, value in values.items()}
    try:
        return kind(**values, **more)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
