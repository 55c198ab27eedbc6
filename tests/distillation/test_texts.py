"""Rows of unlabelled text, out of files."""

import gzip

import pytest

from fastmux.distillation.texts import read_texts, tokenize


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_row_a_line_and_blank_lines_are_none(tmp_path):
    one = write(tmp_path / "a.txt", "first\n\n  \nsecond\u2028still\r\n")
    two = tmp_path / "b.txt.gz"
    two.write_bytes(gzip.compress(b"third"))
    assert read_texts([one, two]) == ["first", "second\u2028still", "third"]


def test_a_line_with_a_tab_is_a_pair(tmp_path, tokenizer):
    rows = read_texts([write(tmp_path / "pairs.tsv", "w1 w2\tw3\nw4\tw5 w6\n")])
    assert rows == [("w1 w2", "w3"), ("w4", "w5 w6")]
    encoded = tokenize(rows, tokenizer, 16)
    assert encoded["input_ids"][0] == tokenizer("w1 w2", "w3")["input_ids"]
    assert encoded["token_type_ids"][0] == tokenizer("w1 w2", "w3")["token_type_ids"]
    assert encoded["length"] == [6, 6]


def test_rows_are_cut_at_max_length(tokenizer):
    assert tokenize(["w1 w2 w3 w4", "w1"], tokenizer, 4)["length"] == [4, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.txt has no text in it"),
        ("\n \n", r"a\.txt has no text in it"),
        (b"good\n\0\1\2", r"a\.txt: line 2 holds a NUL byte"),
        (b"good\n\xff\xfe", r"a\.txt must be UTF-8, but line 2"),
        ("one\ntwo\tthree\n", r"line 2 is a pair of texts, but line 1 of .*a\.txt is one text"),
        ("one\ttwo\nthree\n", r"line 2 is one text, but line 1 of .*a\.txt is a pair of texts"),
        ("a\tb\tc\n", r"line 1 has 2 tabs"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_line(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read_texts([write(tmp_path / "a.txt", data)])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt cannot be read"):
        read_texts([tmp_path / "none.txt"])
