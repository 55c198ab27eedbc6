"""Files and folders that are there whole or not at all: written under a temporary name, then moved."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to, which becomes ``path`` (file or folder) if the block succeeds.

    A former ``path`` is replaced. If the block fails, it stays and the temporary one goes.
    """
    temporary = path.with_name(f".{path.stem}.writing-{os.getpid()}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            # A folder that has content cannot be replaced in one step.
            former = path.with_name(f".{path.name}.former-{os.getpid()}")
            os.replace(path, former)
            os.replace(temporary, path)
            remove(former)
        else:
            os.replace(temporary, path)
    finally:
        remove(temporary)


def write_json(path: Path, value: object) -> None:
    """Writes JSON that standard readers take: a number that is not finite becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
