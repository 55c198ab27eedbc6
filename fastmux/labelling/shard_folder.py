"""The shards of answered rows on disk, while a run goes on; each shard is there whole or not at all.

They are in a folder beside the output, ``OUTPUT.parts``. Of each shard it has the rejected rows, the labelled rows and
a record. Each of these is written under another name, synced and renamed; a shard counts once its record is there. A
process that is killed leaves whole shards behind, and the next process goes on with the first one that is missing. The
manifest says which model and options made the shards; others are refused. At the end all shards are put together into
the output.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fastmux.files import changes, read_json, remove, replacing, write_json
from fastmux.labelling.labelling_report import Reject
from fastmux.labelling.sharing import Share
from fastmux.tables.writers import WRITERS, Writer, concatenate_files

_MANIFEST, _LOCK = "manifest.json", "lock"
#: A mark that all shards have been put together, set before the output has its name.
_ASSEMBLED = "assembled"


class ShardFolder:
    """The folder beside an output while its rows are labelled.

    Args:
        output: The output file.
        writer: Writes the rows in the output's format.
        fingerprint: What the labels depend on, by name: the model, the options.
        unit: What rows are counted by: "line" or "row".

    Raises:
        ValueError: The output exists, or was begun with another fingerprint; the message says what differs.
    """

    def __init__(self, output: Path, writer: Writer, fingerprint: dict, unit: str):
        self.output, self.writer, self.fingerprint, self.unit = output, writer, fingerprint, unit
        self.folder = parts_folder(output)
        self.rejects = rejects_file(output)

    @contextlib.contextmanager
    def open(self, share: Share) -> Iterator[ShardFolder]:
        """Lock the folder for this process and those that share the work with it."""
        with contextlib.ExitStack() as cleanup:
            share.once(lambda: self._take(cleanup))
            if share.rank:
                self._check_manifest()  # written by the first process, for the same model and options
            yield self

    def _take(self, cleanup: contextlib.ExitStack) -> None:
        with write_errors(self.output):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / _LOCK, os.O_WRONLY | os.O_CREAT)
        cleanup.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process is writing {self.output}") from error
        self._check_manifest()
        for left in self.folder.glob(".*"):  # left by a process that was killed
            remove(left)

    def _check_manifest(self) -> None:
        manifest, fingerprint = self.folder / _MANIFEST, json.loads(json.dumps(self.fingerprint))
        if not manifest.is_file():
            with write_errors(self.output):
                write_json(manifest, fingerprint)
            return
        former = read_json(manifest)
        if changed := changes(former, fingerprint, sorted({*former, *fingerprint})):
            raise ValueError(
                f"{self.output} was begun with another model or other options: {changed}. Run it with those, name "
                f"another output, or remove {self.folder} to begin anew"
            )

    def record(self, index: int, digest: str) -> dict | None:
        """The record of a shard that is done; None for one that is still to be labelled.

        Raises:
            ValueError: The shard was made of other rows.
        """
        path = self._path(index, "done")
        if not path.is_file():
            return None
        record = read_json(path)
        if record["digest"] != digest:
            raise ValueError(
                f"the input has changed since {self.output} was begun: shard {index} holds other rows. Name another "
                f"output, or remove {self.folder} to begin anew"
            )
        return record

    def commit(self, index: int, write: Callable[[Path], None], rejects: list[Reject], record: dict) -> None:
        """Write a shard: its rejected rows, its labelled rows, then its record."""
        with write_errors(self.output):
            if rejects:
                with replacing(self._path(index, "rejects"), durable=True) as path:
                    path.write_text("".join(self._line(reject) for reject in rejects), encoding="utf-8")
            with replacing(self._path(index, "rows"), durable=True) as path:
                write(path)
            with replacing(self._path(index, "done"), durable=True) as path:
                path.write_text(json.dumps(record), encoding="utf-8")

    def _line(self, reject: Reject) -> str:
        row = {self.unit: reject.number, "reason": reject.reason, "content": reject.content}
        return json.dumps(row, ensure_ascii=False) + "\n"

    def finish(self, shards: int) -> None:
        """Put all shards together into the output, and the rejected rows into a file beside it; remove the folder."""
        with write_errors(self.output):
            rejects = [path for index in range(shards) if (path := self._path(index, "rejects")).is_file()]
            # Temporary files are in the folder, so that a kill leaves nothing outside of it.
            if rejects:
                with replacing(self.rejects, durable=True, within=self.folder) as path:
                    concatenate_files(path, rejects)
            parts = [self._path(index, "rows") for index in range(shards)]
            for second in files_beside(self.output):
                with replacing(second, durable=True, within=self.folder) as path:
                    self.writer.assemble_beside(path, parts)
            with replacing(self.output, durable=True, within=self.folder) as path:
                self.writer.assemble(path, parts)
                (self.folder / _ASSEMBLED).touch()
            gone = _obsolete_folder(self.output)
            self.folder.replace(gone)  # in one step, as a part of the folder would look like an unfinished run
            remove(gone)

    def _path(self, index: int, what: str) -> Path:
        return self.folder / f"{index:06d}.{what}"


def parts_folder(output: Path) -> Path:
    """The folder that has the shards of an output while it is made."""
    return output.with_name(f"{output.name}.parts")


def rows_done(output: Path) -> int:
    """How many rows the shards of an unfinished output have."""
    return sum(read_json(record)["rows"] for record in parts_folder(output).glob("*.done"))


def _obsolete_folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.parts-obsolete")


def rejects_file(output: Path) -> Path:
    """The file that lists the rejected rows, with line and reason."""
    return output.with_name(f"{output.name}.rejects.jsonl")


def files_beside(output: Path) -> list[Path]:
    """The second file of an output in a format that has one."""
    ending = WRITERS[output.suffix].beside
    return [] if ending is None else [output.with_name(f"{output.name}{ending}")]


def check_output(output: Path) -> None:
    """Raise ValueError for an output that exists, unless a process was killed while it removed its folder."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder, expected the name of a file")
    parts, gone = parts_folder(output), _obsolete_folder(output)
    with write_errors(output):
        if gone.is_dir() and output.exists() and not parts.exists():
            # A process was killed while it removed the folder of a complete output. The same command must succeed at
            # whatever moment the former one was killed: it labels anew, as some files of shards are gone.
            for record in gone.glob("*.done"):
                record.unlink()
            (gone / _ASSEMBLED).touch()
            gone.replace(parts)
        remove(gone)
    for path in (output, rejects_file(output), *files_beside(output)):
        # The list of rejected rows is written first, then the mark, then the output; a kill may come in between.
        marks = (_ASSEMBLED,) if path == output else (_ASSEMBLED, _MANIFEST)
        if path.exists() and not any((parts / mark).is_file() for mark in marks):
            raise ValueError(f"{path} exists: name another output, or remove it")


@contextlib.contextmanager
def write_errors(output: Path) -> Iterator[None]:
    """Turn a failed write into an `OSError` that says how to go on."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OSError(
            f"writing {output} failed: {error}. {'The disk is full. ' if full else ''}What is done is kept in "
            f"{parts_folder(output)}; the same command goes on from there"
        ) from error
