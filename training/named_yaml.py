"""YAML files that come along under a name, or are one's own, whose keys are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def read_yaml(folder: Path, name: str, what: str) -> tuple[Path, Any]:
    """What is in ``folder/NAME.yaml`` or, if there is none, in the file ``name``; and which file that is.

    Args:
        folder: of the files that have a name.
        name: of one of them, or a path.
        what: the file is, for messages.

    Raises:
        ValueError: there is no such file, or it is not YAML.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"{what} {name!r} is neither one of {known} nor a file that can be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error


def check_keys(keys: Iterable[object], known: Iterable[str], where: str, what: str) -> None:
    """Raises ValueError for a key that is not known; the message, which begins with ``where``, has the closest one."""
    known = list(known)
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            raise ValueError(f"{where}: there is no {key!r} in a {what}; the closest is {close[0]!r}")


def typed(where: str, key: str, value: object, *kinds: type) -> object:
    """A value, once it is of one of these types; a number becomes the float that is asked for.

    Raises:
        ValueError: it is of another type; the message begins with ``where``.
    """
    if type(value) in kinds:
        return value
    if float in kinds and type(value) in (int, str):
        try:
            return float(value)  # to YAML, 2e-3 is text
        except ValueError:
            pass
    raise ValueError(f"{where}: {key} must be of type {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
