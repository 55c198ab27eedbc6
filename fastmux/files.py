"""Files and folders that are there whole or not at all: written under a temporary name, then moved.

`replacing` makes one file or folder, `replacing_files` several files of a folder that may hold others. The temporary
name is always in the folder that the result goes to, which may be a link or a file system of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

#: Folders inside the target of `replacing_files`: files still being written, and files that are whole and on their way.
_WRITING, _WRITTEN = ".writing-", ".written"
#: In the latter: the names of the files that go when the new ones come.
_OBSOLETE = ".obsolete.json"
_ABANDONED_SECONDS = 24 * 60 * 60


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, within: Path | None = None) -> Iterator[Path]:
    """A temporary sibling to write to, which becomes ``path`` (file or folder) if the block succeeds.

    A former ``path`` is replaced. If the block fails, it stays and the temporary one goes. Where ``path`` is a link,
    what it leads to is replaced, and the link stays.

    Args:
        durable: of a file, wait until the disk has it, so that it is whole under its name after a power cut too.
        within: the temporary one lies in this folder, of the same file system, and is no sibling.
    """
    path = Path(os.path.realpath(path))
    temporary = (within or path.parent) / f".{path.stem}.writing-{os.getpid()}{path.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        if path.is_dir():
            # A folder that has content cannot be replaced in one step.
            former = path.with_name(f".{path.name}.former-{os.getpid()}")
            os.replace(path, former)
            os.replace(temporary, path)
            remove(former)
        else:
            os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        remove(temporary)


def destination(path: Path) -> Path:
    """Where what is being written to ``path``, a temporary file or folder of `replacing` or `replacing_files`, will be;
    any other path is its own."""
    if written := re.fullmatch(r"\.(.+)\.writing-\d+(\.\w+)?", path.name):
        return path.with_name(written[1] + (written[2] or ""))
    return path.parent if path.name.startswith(_WRITING) else path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing_files(folder: Path, obsolete: Callable[[set[str], set[str]], Iterable[str]]) -> Iterator[Path]:
    """A temporary folder inside ``folder`` to write to, whose files become those of ``folder`` if the block succeeds.

    All of them or none: once all are written, one rename decides that they count; then they are moved. A process that
    ends in between leaves the rest to `finish_replacing`, which readers of such a folder call first.

    Args:
        folder: made if it is not there, with its parents.
        obsolete: of the names written and the names that were there, the former files that go. All others stay.
    """
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    finish_replacing(folder)
    for entry in folder.glob(f"{_WRITING}*"):  # left by a process that was killed long ago
        if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
            remove(entry)
    staging = Path(tempfile.mkdtemp(prefix=_WRITING, dir=folder))
    try:
        yield staging
        written = {entry.name for entry in staging.iterdir()}
        former = {entry.name for entry in folder.iterdir() if entry.is_file()}
        (staging / _OBSOLETE).write_text(json.dumps(sorted(set(obsolete(written, former)) - written)))
        os.rename(staging, folder / _WRITTEN)
        finish_replacing(folder)
    finally:
        remove(staging)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def finish_replacing(folder: Path) -> None:
    """Does what a process that ended within `replacing_files` did not get to, if there was one."""
    written = folder / _WRITTEN
    if not written.is_dir():
        return
    # Another process may do the same at the same time: what is no longer there, it has moved.
    with contextlib.suppress(FileNotFoundError):
        for name in json.loads((written / _OBSOLETE).read_text()):
            remove(folder / name)
        for entry in sorted(written.iterdir()):
            if entry.name != _OBSOLETE:
                if (folder / entry.name).is_dir():
                    remove(folder / entry.name)
                os.replace(entry, folder / entry.name)
        remove(written)


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


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def changes(former: dict, now: dict, names: Iterable[str] | None = None) -> str:
    """What differs between two records, in words: ``"name was 1, is 2; ..."``; empty if nothing does.

    Args:
        names: to look at; those of ``now`` if None.
    """
    unlike = [name for name in (now if names is None else names) if former.get(name) != now.get(name)]
    return "; ".join(f"{name} was {former.get(name)!r}, is {now.get(name)!r}" for name in unlike)


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
