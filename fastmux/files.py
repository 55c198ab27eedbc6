"""Writing files and folders so that they appear complete or not at all: under a temporary name first, then renamed.

`replacing` writes one file or folder, `replacing_files` several files of a folder that may hold others. The temporary
name is in the result's own folder, since that may be a link or another file system.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
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

#: Folders inside the target of `replacing_files`: for files that are being written, and for those that are complete.
_WRITING, _WRITTEN = ".writing-", ".written"
#: The file in the latter that lists the former files to remove.
_OBSOLETE = ".obsolete.json"
_ABANDONED_SECONDS = 24 * 60 * 60


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, within: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path to write to, which is renamed to ``path`` (file or folder) if the block succeeds.

    A former ``path`` is replaced. If the block fails, it stays and the temporary one is removed. If ``path`` is a link,
    its target is replaced and the link stays.

    Args:
        path: The file or folder to write. A folder is replaced by a folder alone, never by a file.
        durable: Whether to wait until a file is on the disk, so that it is complete after a power cut, too.
        within: The folder of the temporary path, on the same file system. By default the folder of ``path``.

    Raises:
        IsADirectoryError: ``path`` is a folder, and a file was written.
    """
    path = Path(os.path.realpath(path))
    temporary = (within or path.parent) / f".{path.stem}.writing-{os.getpid()}{path.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        if path.is_dir() and not temporary.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, expected a file or a new name", str(path))
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
    """The final path of a temporary file or folder of `replacing` or `replacing_files`. Any other path is returned as
    it is."""
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
    """Yields a temporary folder inside ``folder``. If the block succeeds, its files are moved to ``folder``.

    Either all of them are moved or none. When all are written, one rename marks them as complete; then they are moved.
    If the process ends in between, `finish_replacing` moves the rest. Readers of such a folder call it first.

    Args:
        folder: The folder to write to. It is created if it is missing, with its parents.
        obsolete: Maps the names that were written and the names that were there to the former files to remove. All
            others stay.
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
    """Completes a `replacing_files` in which a process ended, if there was one."""
    written = folder / _WRITTEN
    if not written.is_dir():
        return
    # Another process may do this at the same time: files that are no longer there have been moved by it.
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
    """Writes standard JSON: a number that is not finite becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """What a file of JSON says.

    Raises:
        json.JSONDecodeError: It is damaged; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"{path} is not JSON: {error.msg}", error.doc, error.pos) from error


def changes(former: dict, now: dict, names: Iterable[str] | None = None) -> str:
    """Describes the differences between two records: ``"name was 1, is 2; ..."``. Empty if there are none.

    Args:
        former: The first record.
        now: The second record.
        names: The names to compare. Those of ``now`` if None.
    """
    unlike = [name for name in (now if names is None else names) if former.get(name) != now.get(name)]
    return "; ".join(f"{name} was {former.get(name)!r}, is {now.get(name)!r}" for name in unlike)


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_output_dir(folder: Path, record: Path, identity: dict, what: str) -> None:
    """Raise ValueError for a folder that has other content than unfinished work with the same settings.

    Args:
        folder: The folder. That it is missing or empty is fine.
        record: The file in it that says of unfinished work which settings it has.
        identity: The settings, as JSON can hold them.
        what: The work, for the message: "conversion".
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"output_dir is {str(folder)!r}, which is a file; expected a folder")
    if record.is_file():
        if changed := changes(read_json(record), json.loads(json.dumps(identity))):
            raise ValueError(f"output_dir {str(folder)!r} holds an unfinished {what} with other settings: {changed}")
    elif any(folder.iterdir()):
        raise ValueError(f"output_dir {str(folder)!r} is not empty; give a new folder")


def check_room(folder: Path, needed: float, what: str) -> None:
    """Raise OSError if the disk of a folder has less room than so many bytes; ``what`` is the work, for the message."""
    there = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"output_dir {str(folder)!r}: {what} keeps up to {needed / 2**30:.1f} GiB there while it runs, and "
            f"{free / 2**30:.1f} GiB are free",
        )


@contextlib.contextmanager
def write_errors(folder: Path, way_on: str = "--resume") -> Iterator[None]:
    """Raises `OSError`, with what to do next (``way_on``), when a checkpoint or a model cannot be written.

    Python's own writes raise one; the writers of safetensors, tokenizers and torch raise errors of their own kinds,
    which name no file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or "(os error" in str(error) or "inline_container.cc" in str(error):
            raise OSError(
                f"writing to {folder} failed: {error}. Is the disk full? What was whole before still is; "
                f"{way_on} goes on from there"
            ) from error
        raise


def digest_of(value: object) -> str:
    """A digest of what JSON can hold; of anything else, of how it prints."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
