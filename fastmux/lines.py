r"""The lines of a text file, by one rule for every format: only ``\n`` and ``\r\n`` end a line.

`str.splitlines` also ends a line at U+2028, U+0085, form feeds and others, and a file in text mode does so at a lone
``\r``. In a vocabulary, a table or a corpus these are text. A line that ended at one would shift all lines after it.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import zlib
from collections.abc import Iterator
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import cast

#: Longer marks first: the mark of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
#: The first bytes of files that do not hold lines of text -> what they are.
_NO_TEXT = {
    b"\x1f\x8b": "packed by gzip",
    b"PK\x03\x04": "a zip archive, as .xlsx and .docx are",
    b"PK\x05\x06": "an empty zip archive",
    b"\xfd7zXZ\0": "packed by xz",
    b"BZh": "packed by bzip2",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\x04\x22\x4d\x18": "packed by lz4",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "Parquet",
    b"ARROW1\0\0": "an Arrow file",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "an array of NumPy",
    b"\xd0\xcf\x11\xe0": "an old document of Office, as .xls is",
    b"%PDF-": "a PDF document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x7fELF": "a program",
}
#: Those of them that a text may begin with, too. The file is a text if UTF-8 follows.
_PERHAPS_TEXT = (b"BZh", b"ORC", b"PAR1")
#: The number of bytes at the start of a file that tell what it is.
_START = 512
#: The number of bytes that are read at a time.
_BLOCK = 2**18


class RawLines:
    r"""The lines of a file (of a gzip file, if its name ends in ``.gz``) as bytes, each with its ``\n`` or ``\r\n``.

    A byte order mark of UTF-8 at the start is dropped. Lines need not be text: see `decode`.

    Args:
        path: The file.
        limit: The longest line, in bytes. A longer line is cut to ``limit`` + 1 bytes, without its end. None for lines
            of any length.

    Raises:
        ValueError: While iterating, the file is missing or cannot be read, or begins with the byte order mark of UTF-16
            or UTF-32, or like a file that is not text (compressed files, Parquet, images).
    """

    def __init__(self, path: str | PathLike, limit: int | None = None):
        self.path, self.limit = Path(path), limit
        self._disk: BufferedReader | None = None
        self._number = 0
        self._kept = b""

    @property
    def position(self) -> int:
        """The number of bytes that have been read from the disk so far, compressed or not."""
        return self._disk.tell() if self._disk is not None and not self._disk.closed else 0

    def __iter__(self) -> Iterator[bytes]:
        self._number = 0
        with self._opened() as file:
            for number, line in enumerate(self._cut(file), start=1):
                self._number = number
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    if not line:
                        break  # nothing but a byte order mark
                yield line

    def blocks(self) -> Iterator[list[bytes]]:
        r"""Yields the same lines many at a time, without their ends, which is several times as fast."""
        self._number = 0
        rest, begun, passing = b"", False, False
        with self._opened() as file:
            while data := file.read(_BLOCK):
                if not begun:
                    data, begun = data.removeprefix(codecs.BOM_UTF8), True
                lines = (rest + data).split(b"\n")
                rest = lines.pop()
                if passing and lines:
                    lines[0], passing = self._kept, False
                elif passing:
                    rest = b""
                if b"\r\n" in data or (data[:1] == b"\n" and lines[0].endswith(b"\r")):
                    lines = [line.removesuffix(b"\r") for line in lines]
                if self.limit is not None and max(map(len, lines), default=0) > self.limit:
                    lines = [line[: self.limit + 1] for line in lines]
                self._number += len(lines)
                if lines:
                    yield lines
                if self.limit is not None and len(rest) > self.limit:
                    self._kept, rest, passing = rest[: self.limit + 1], b"", True
            if passing or rest:
                yield [self._kept if passing else rest]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BufferedReader]:
        try:
            with open(self.path, "rb") as self._disk, self._unpacked(self._disk) as file:
                self._check_start(file.peek(_START)[:_START])
                yield file
        except (OSError, EOFError, zlib.error) as error:
            after = f" after line {self._number}" if self._number else ""
            raise ValueError(f"{self.path} cannot be read{after}: {error}") from error

    def _unpacked(self, disk: BufferedReader) -> BufferedReader:
        return cast(BufferedReader, gzip.GzipFile(fileobj=disk)) if self.path.suffix == ".gz" else disk

    def _cut(self, file) -> Iterator[bytes]:
        if self.limit is None:
            yield from file
            return
        while line := file.readline(self.limit + 1):
            yield line
            rest = line
            while rest and len(rest) > self.limit and not rest.endswith(b"\n"):
                rest = file.readline(self.limit + 1)

    def _check_start(self, data: bytes) -> None:
        self._refuse_other_marks(data)
        for mark, what in _NO_TEXT.items():
            if data.startswith(mark) and not (mark in _PERHAPS_TEXT and _is_text(data)):
                packed = self.path.suffix == ".gz"
                ending = " and its name does not end in .gz" if what == "packed by gzip" and not packed else ""
                raise ValueError(
                    f"{self.path} must be lines of text, but {'what it packs' if packed else 'it'} is {what}{ending}"
                )
        if data[257:262] == b"ustar":
            raise ValueError(f"{self.path} must be lines of text, but it is a tar archive")

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
        path: The file.
        keepends: Whether lines keep their ``\n`` or ``\r\n``.

    Raises:
        ValueError: The file is missing or cannot be read, is not UTF-8, or holds a NUL byte, as binary files do. The
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


def _is_text(data: bytes) -> bool:
    """Whether the start of a file is UTF-8 without NUL. It may end within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def decode(raw: bytes) -> str:
    """Decodes UTF-8.

    Raises:
        ValueError: The bytes are not UTF-8. The message names the first wrong byte and its place.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02X} at position {error.start + 1} ({error.reason})"
        raise ValueError(found) from error


def without_end(line: str) -> str:
    r"""Returns a line without the ``\n`` or ``\r\n`` at its end."""
    return line[:-1].removesuffix("\r") if line.endswith("\n") else line
