"""What is a line of a text file, and what is no text."""

from __future__ import annotations

import gzip
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import fastmux.lines
from fastmux.lines import RawLines, read_lines

#: What `str.splitlines` takes for the end of a line beside \n, and more separators.
SEPARATORS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u00a0\u3000\ufeff"
#: Any text that can stand in one line.
LINES = st.text(st.one_of(st.sampled_from(SEPARATORS), st.characters(codec="utf-8", exclude_characters="\n\0")))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("lines") / "text.txt"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@settings(max_examples=40, deadline=None)
@given(lines=st.lists(LINES.filter(lambda line: not line.endswith("\r"))), last=st.booleans())
@example(lines=["a\u2028b", "", "c\x0c"], last=True)
@example(lines=["\ufeff"], last=False)
def test_lines_are_what_was_written(path, end, mark, lines, last):
    text = end.join(lines) + (end if last and lines else "")
    if not mark and text.startswith("\ufeff"):
        mark = "\ufeff"  # a first line that begins with one can be written only behind a real one
    path.write_bytes((mark + text).encode())
    expected = lines if last or not lines or lines[-1] else lines[:-1]
    assert list(read_lines(path)) == expected
    assert "".join(read_lines(path, keepends=True)) == text


@pytest.mark.parametrize("separator", SEPARATORS)
def test_no_other_character_ends_a_line(path, separator):
    path.write_bytes(f"a{separator}b\nc".encode())
    assert list(read_lines(path)) == [f"a{separator}b", "c"]


def test_gzip_files_are_unpacked(path):
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress("a\r\nb\u2028c\n".encode()))
    assert list(read_lines(packed)) == ["a", "b\u2028c"]
    packed.write_bytes(packed.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"text\.gz cannot be read"):
        list(read_lines(packed))
    packed.write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"text\.gz cannot be read: Not a gzipped file"):
        list(read_lines(packed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("caf\u00e9".encode("utf-16"), r"text\.txt must be UTF-8, but begins with the byte order mark of UTF-16"),
        (b"\xfe\xff" + "x".encode("utf-16-be"), "the byte order mark of UTF-16"),
        ("x".encode("utf-32"), "the byte order mark of UTF-32"),
        ("one\ntwo".encode("utf-16-le"), r"text\.txt: line 1 holds a NUL byte"),
        (b"one\n\n\nt\0wo\n", r"text\.txt: line 4 holds a NUL byte"),
        (b"one\n\ncaf\xe9 au lait\n", r"text\.txt must be UTF-8, but line 3 has byte 0xE9 at position 4"),
        (b"ab\xe2\x80", r"line 1 has byte 0xE2 at position 3 \(unexpected end of data\)"),
    ],
)
def test_what_is_no_text_is_refused_with_what_was_found(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_lines(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/none.txt cannot be read: [Errno 2]")):
        list(read_lines(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} cannot be read: [Errno 21]")):
        list(read_lines(tmp_path))


@settings(max_examples=200, deadline=None)
@given(
    data=st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"x" * 40]), max_size=30),
    limit=st.sampled_from([None, 7, 50]),
    size=st.integers(3, 9),
)
def test_blocks_are_the_same_lines(tmp_path_factory, data, limit, size):
    assume(limit is None or not b"".join(data).startswith(b"\xef"))  # of which a line's length is that of its text
    path = tmp_path_factory.mktemp("lines") / "in.txt"
    path.write_bytes(b"".join(data))
    lines = [raw[:-1].removesuffix(b"\r") if raw.endswith(b"\n") else raw for raw in RawLines(path, limit)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastmux.lines, "_BLOCK", size)
        found = [line for block in RawLines(path, limit).blocks() for line in block]
    if limit is None:
        assert found == lines
    else:  # a line that is too long is cut, here or there
        assert [line if len(line) < limit else None for line in found] == [
            line if len(line) < limit else None for line in lines
        ]
