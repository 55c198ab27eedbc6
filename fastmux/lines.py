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

#: The longer marks first: that of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                line = _decode(raw, path, number)
                if not line:
                    break  # nothing but a byte order mark
                if not keepends and line.endswith("\n"):
                    line = line[:-1].removesuffix("\r")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        after = f" after line {number}" if number else ""
        raise ValueError(f"{path} cannot be read{after}: {error}") from error


def _decode(raw: bytes, path: Path, number: int) -> str:
    if number == 1:
        for mark, name in _OTHER_MARKS.items():
            if raw.startswith(mark):
                raise ValueError(
                    f"{path} must be UTF-8, but begins with the byte order mark of {name}; save it as UTF-8"
                )
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\0" in raw:
        raise ValueError(f"{path}: line {number} holds a NUL byte: no text in UTF-8, but a binary file or UTF-16")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02X} at position {error.start + 1} ({error.reason})"
        raise ValueError(f"{path} must be UTF-8, but line {number} has {found}; save it as UTF-8") from error
