r"""The lines of a text file, by one rule for every format: ``\n`` and ``\r\n`` end a line, and nothing else does.

`str.splitlines` also ends a line at U+2028, U+0085, form feeds and others, and a file opened as text at a lone ``\r``.
In a vocabulary, a table or a corpus all of these are text: a line that ends at one shifts whatever is counted by lines.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

#: The longer marks first: that of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class RawLines:
    r"""The lines of a file (of a gzip file, if its name ends in ``.gz``) as bytes, each with its ``\n`` or ``\r\n``.

    A byte order mark of UTF-8 at the start is dropped. Lines need be no text: see `decode`.

    Args:
        path: the file.
        limit: of a longer line, the rest is passed over: what comes of it has ``limit`` + 1 bytes and no end. None
            for lines of any length.

    Raises:
        ValueError: (while iterating) the file is not there or cannot be read, or begins with the byte order mark of
            UTF-16 or UTF-32.
    """

    def __init__(self, path: str | PathLike, limit: int | None = None):
        self.path, self.limit = Path(path), limit
        self._disk: BinaryIO | None = None

    @property
    def position(self) -> int:
        """Bytes of the file that have been read from the disk so far, packed or not."""
        return self._disk.tell() if self._disk is not None and not self._disk.closed else 0

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        try:
            with open(self.path, "rb") as self._disk, self._unpacked(self._disk) as file:
                for number, line in enumerate(self._cut(file), start=1):
                    if number == 1:
                        self._refuse_other_marks(line)
                        line = line.removeprefix(codecs.BOM_UTF8)
                        if not line:
                            break  # nothing but a byte order mark
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            after = f" after line {number}" if number else ""
            raise ValueError(f"{self.path} cannot be read{after}: {error}") from error

    def _unpacked(self, disk: BinaryIO):
        return gzip.GzipFile(fileobj=disk) if self.path.suffix == ".gz" else disk

    def _cut(self, file) -> Iterator[bytes]:
        if self.limit is None:
            yield from file
            return
        while line := file.readline(self.limit + 1):
            yield line
            rest = line
            while rest and len(rest) > self.limit and not rest.endswith(b"\n"):
                rest = file.readline(self.limit + 1)

    def _refuse_other_marks(self, line: bytes) -> None:
        for mark, name in _OTHER_MARKS.items():
            if line.startswith(mark):
                raise ValueError(
                    f"{self.path} must be UTF-8, but begins with the byte order mark of {name}; save it as UTF-8"
                )


def read_lines(path: str | PathLike, *, keepends: bool = False) -> Iterator[str]:
    r"""The lines of a UTF-8 file (of a gzip file, if its name ends in ``.gz``), one after the other.

    A byte order mark at the start is dropped. A last line needs no end, and an end at the very end begins no line.

    Args:
        path: the file.
        keepends: leave ``\n`` or ``\r\n`` at the lines.

    Raises:
        ValueError: the file is not there or cannot be read, is not UTF-8, or holds a NUL byte (it is binary); the
            message names file and line.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "words.txt"
        >>> _ = path.write_bytes("one\u2028still one\r\ntwo".encode())
        >>> list(read_lines(path))
        ['one\u2028still one', 'two']
    """
    path = Path(path)
    for number, raw in enumerate(RawLines(path), start=1):
        if b"\0" in raw:
            raise ValueError(f"{path}: line {number} holds a NUL byte: no text in UTF-8, but a binary file or UTF-16")
        try:
            line = decode(raw)
        except ValueError as error:
            raise ValueError(f"{path} must be UTF-8, but line {number} has {error}; save it as UTF-8") from error
        yield line if keepends else without_end(line)


def decode(raw: bytes) -> str:
    """Bytes in UTF-8 as text.

    Raises:
        ValueError: names the first byte that is none, and its place.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02X} at position {error.start + 1} ({error.reason})"
        raise ValueError(found) from error


def without_end(line: str) -> str:
    r"""A line without the ``\n`` or ``\r\n`` behind it."""
    return line[:-1].removesuffix("\r") if line.endswith("\n") else line
