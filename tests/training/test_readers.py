"""Tables and CoNLL files: what was written is read, and what is malformed is refused by file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmux.training.tasks import Conll2003Task
from fastmux.training.tasks.conll import read_conll
from fastmux.training.tasks.conll2003 import rows_of
from fastmux.training.tasks.labels import Classes, one_label
from fastmux.training.tasks.readers import Table, read_table

SEPARATORS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u00a0\u3000\ufeff \"',"
LABELS = Conll2003Task.labels


def texts(without: str, **options) -> st.SearchStrategy[str]:
    """Any text but for the characters that the format itself needs."""
    characters = st.characters(codec="utf-8", exclude_characters=without + "\0")
    return st.text(st.one_of(st.sampled_from("".join(set(SEPARATORS) - set(without))), characters), **options)


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = ["sentence\tlabel", *("\t".join(row) for row in rows)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *rows])


def write_jsonl(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"sentence": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
    path.write_bytes("".join(lines).encode())


def write_parquet(path: Path, rows: list[tuple[str, str]]) -> None:
    sentences, labels = zip(*rows, strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"sentence": list(sentences), "label": list(labels)}), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize(
    ("ending", "write", "without"),
    [("tsv", write_tsv, "\t\n"), ("csv", write_csv, ""), ("jsonl", write_jsonl, ""), ("parquet", write_parquet, "")],
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_tables_are_what_was_written(folder, ending, write, without, data):
    rows = data.draw(st.lists(st.tuples(texts(without), st.sampled_from(["0", "1", "no"])), min_size=1))
    path = folder / f"table.{ending}"
    write(path, rows)
    table = read_table(path, ["label", "sentence"])
    found = table.read("label", one_label)
    assert list(zip(table.texts("sentence")["text"], found, strict=True)) == rows
    known = ["no", "1", "0"]
    assert table.read("label", Classes.named(known).id) == [known.index(label) for _, label in rows]
    if ending != "parquet":
        packed = folder / f"table.{ending}.gz"
        packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
        assert read_table(packed, ["sentence"]).columns["sentence"] == table.columns["sentence"]


@pytest.mark.parametrize(("separator", "without"), [("\t", "\t\n"), (" ", "\t\n ")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_sentences_are_what_was_written(folder, separator, without, end, data):
    token = texts(without, min_size=1).filter(lambda text: not text.startswith(("-DOCSTART-", "\ufeff", "# ")))
    sentences = data.draw(
        st.lists(st.lists(st.tuples(token, st.sampled_from(range(len(LABELS)))), min_size=1), min_size=1)
    )
    columns = data.draw(st.sampled_from([[], ["NNP"], ["NNP", "B-NP"]]))
    text = (end * 2).join(
        end.join(separator.join([token, *columns, LABELS[tag]]) for token, tag in sentence) for sentence in sentences
    )
    path = folder / "sentences.txt"
    path.write_bytes(text.encode())
    rows = rows_of(read_conll(path), Classes.named(LABELS))
    assert [list(zip(row["tokens"], row["tags"], strict=True)) for row in rows] == sentences


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("5\u00a0000 B-MISC\n", [["5\u00a0000"]]),
        ("New York\tB-LOC\nis\tO\n", [["New York", "is"]]),
        ("a\u2028b O\n\u2029 O\n\x85 O\nc\x0cd O\n\x0b O", [["a\u2028b", "\u2029", "\x85", "c\x0cd", "\x0b"]]),
        ("\ufeff-DOCSTART- -X- -X- O\n\nJohn NNP B-NP B-PER\n", [["John"]]),
        ("-DOCSTART- -X- -X- O\r\n\r\nJohn NNP B-NP B-PER\r\n\r\n", [["John"]]),
        ("John   NNP B-PER\nslept VB O  \n \t\n\n\nthen  RB O", [["John", "slept"], ["then"]]),
        ("New York\tNNP\tB-LOC\nis VBZ O\n", [["New York", "is"]]),
    ],
)
def test_listed_sentences(folder, text, tokens):
    path = folder / "listed.txt"
    path.write_bytes(text.encode())
    assert read_conll(path).columns["tokens"] == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"John B-PER\nSmith PER\n", r"bad\.txt: lines 1 to 2: 'tags' must be one of .*, got 'PER'"),
        (b"\n\n\nJohn B-PER\n\nSmith\n", r"line 6 must be 'token tag'"),
        (b"John B-PER\r\n\r\n O\r\n", r"line 3 must be 'token tag'"),
        ("5\u00a0B-MISC\n".encode(), r"line 1 must be 'token tag'"),
        (b"\n\n-DOCSTART- O\n", "no sentences"),
        (b"", "no sentences"),
        ("John B-PER\n".encode("utf-16"), r"bad\.txt must be UTF-8, but begins with the byte order mark of UTF-16"),
        (b"John B-PER\n\nS\0 O\n", r"bad\.txt: line 3 holds a NUL byte"),
        (b"John B-PER\n\ncaf\xe9 O\n", r"bad\.txt must be UTF-8, but line 3 has byte 0xE9"),
    ],
)
def test_malformed_sentences_are_refused(folder, content, message):
    path = folder / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(read_conll(path), Classes.named(LABELS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"text\tlabel\nx\t1\n", r"a\.tsv has no column 'sentence'; there are 'text', 'label'"),
        ("a.tsv", b"sentence\tlabel\n\n\nno label\n", r"line 4: has 1 columns, expected the 2 of the first line"),
        ("a.tsv", b"sentence\tlabel\n", r"a\.tsv has no rows"),
        ("a.tsv", b"sentence\tlabel\n\n\n", r"a\.tsv has no rows"),
        ("a.tsv", b"", r"a\.tsv is empty"),
        ("a.tsv", b"label\tlabel\nx\ty\n", "the first line must name every column once"),
        ("a.tsv", b"sentence\tlabel\n\nfine\t\n", r"a\.tsv: line 3: 'label' has no label"),
        ("a.tsv", b"sentence\tlabel\n\nfine\t1\nbad\t2\n", r"line 4: 'label' must be one of \['0', '1'\], got '2'"),
        ("a.tsv", "sentence\tlabel\n".encode("utf-16"), r"a\.tsv must be UTF-8, but begins with .* UTF-16"),
        ("a.csv", b'sentence,label\n"two\nlines",1\n\nbad,1,2\n', r"line 5: has 3 columns, expected the 2 of"),
        ("a.csv", b'sentence,label\nfine,0\n"open,1\nx,0\n', r"a\.csv: line 3: not CSV: unexpected end"),
        ("a.csv", b"sentence,label\nfine,0\nb\rad,1\n", r"a\.csv: line 3: not CSV"),
        ("a.jsonl", b'{"sentence": "x", "label": 1}\n\n{"sentence": "y"\n', r"line 3: not JSON: "),
        ("a.jsonl", b"[1]\n", r"line 1: not a JSON object, but list"),
        ("a.jsonl", b'{"sentence": "x", "label": 1}\n{"label": 1}\n', r"line 2: 'sentence' must be text, got None"),
        ("a.jsonl", b'{"sentence": 7, "label": 1}\n', r"line 1: 'sentence' must be text, got 7"),
        ("a.jsonl", b'{"sentence": "x", "label": null}\n', r"line 1: 'label' has no label"),
        ("a.jsonl", b'{"label": 1}\n', r"a\.jsonl has no column 'sentence'; there are 'label'"),
        ("a.jsonl", b'{"sentence": "x", "label": 1, "label": 0}\n', r"line 1: has two columns 'label'"),
        ("a.parquet", b"PAR0", r"a\.parquet cannot be read as Parquet"),
        ("a.xlsx", b"PK", r"must end in one of \.jsonl, .*\.parquet"),
        ("a.tsv.gz", b"sentence", r"a\.tsv\.gz cannot be read: Not a gzipped file"),
    ],
)
def test_malformed_tables_are_refused(folder, name, content, message):
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        table = read_table(path, ["sentence", "label"])
        table.rows("sentence", label="label", known=["0", "1"])


def test_labels_may_be_numbers(folder):
    path = folder / "numbers.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"label": [1, 0], "sentence": ["x", None]}), path)
    table = read_table(path, ["label", "sentence"])
    assert isinstance(table, Table) and table.read("label", Classes.named(["0", "1"]).id) == [1, 0]
    with pytest.raises(ValueError, match=r"row 2: 'sentence' must be text, got None"):
        table.texts("sentence")
