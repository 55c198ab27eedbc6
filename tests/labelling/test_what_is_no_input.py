"""What is no file of rows, whatever its name says, is one sentence before any work."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile

import pyarrow
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("rows.txt", "w1\n")
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("rows.txt"), io.BytesIO())
    return file.getvalue()


def database(tmp_path) -> bytes:
    path = tmp_path / "made.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table rows (text)")
    content = path.read_bytes()
    path.unlink()
    return content


def written(write) -> bytes:
    file = io.BytesIO()
    write(pyarrow.table({"text": ["w1"]}), file)
    return file.getvalue()


def codec(name: str) -> bytes:
    return pyarrow.Codec(name).compress(b"w1\n" * 100, asbytes=True)


BINARY = {
    "gzip": (lambda _: gzip.compress(b"w1\nw2\n"), "packed by gzip and its name does not end in .gz"),
    "zip": (lambda _: archive(), "a zip archive"),
    "xz": (lambda _: lzma.compress(b"w1\n"), "packed by xz"),
    "bzip2": (lambda _: bz2.compress(b"w1\n"), "packed by bzip2"),
    "zstd": (lambda _: codec("zstd"), "packed by zstd"),
    "lz4": (lambda _: codec("lz4"), "packed by lz4"),
    "tar": (lambda _: tar(), "a tar archive"),
    "sqlite": (database, "an SQLite database"),
    "parquet": (lambda _: written(pyarrow.parquet.write_table), "Parquet"),
    "feather": (lambda _: written(pyarrow.feather.write_feather), "an Arrow file"),
    "orc": (lambda _: written(pyarrow.orc.write_table), "ORC"),
    "image": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "an image"),
    "noise": (lambda _: bytes(range(128, 256)) * 9, "none of the first 1 lines is a row; line 1: not UTF-8"),
    "zeros": (lambda _: bytes(1000), "none of the first 1 lines is a row; line 1: holds a NUL"),
}


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("what", BINARY)
def test_a_file_of_another_kind_under_the_name_of_text(label, models, tmp_path, what, ending):
    made, message = BINARY[what]
    path = tmp_path / f"in{ending}"
    path.write_bytes(made(tmp_path))
    if ending in (".csv", ".tsv") and what in ("noise", "zeros"):
        message = "line 1 has byte|line 1 holds a NUL"  # of the names of columns
    with pytest.raises(ValueError, match=message):
        label(models["plain"], path, tmp_path / "out.jsonl")
    packed = tmp_path / f"in{ending}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=message.removesuffix(" and its name does not end in .gz")):
        label(models["plain"], packed, tmp_path / "out.jsonl")
    assert {left.name for left in tmp_path.iterdir()} == {path.name, packed.name}


@pytest.mark.parametrize("begin", ["BZh", "ORC", "PAR1", "PK", "GIF"])
def test_a_text_may_begin_with_letters_that_mark_a_format(label, models, tmp_path, begin):
    (tmp_path / "in.txt").write_text(f"{begin} w1 é\nw2\n")
    assert label(models["plain"], tmp_path / "in.txt").dataset["text"] == [f"{begin} w1 é", "w2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("table.xlsx", "table.xlsx is not there"),
        ("data/table.xls", "is not there"),
        ("rows.json", "is not there"),
        ("rows.txt.gz", "is not there"),
        ("rows.txt.zst", "is not there"),
        ("some/where/deep", "is not there"),
        ("a file", "is not there"),
        ("~/rows", "is not there"),
        ("", "the input is '', expected the name of a file"),
        ("-", "the input is '-', but rows are not read from a pipe: name a file"),
        ("https://host/rows.jsonl", "nothing is read from an address"),
        ("s3://bucket/rows.parquet", "nothing is read from an address"),
        ("/dev/null", "is no file that can be read twice"),
    ],
)
def test_what_is_not_looked_up_on_the_hub(label, models, monkeypatch, given, message):
    def asked(*args, **options):
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr("datasets.load_dataset", asked)
    with pytest.raises(ValueError, match=message):
        label(models["plain"], given)


def test_a_file_with_the_name_of_a_sheet(label, models, tmp_path):
    (tmp_path / "in.xlsx").write_bytes(archive())
    with pytest.raises(ValueError, match=r"the name of an input must end in one of \.jsonl"):
        label(models["plain"], tmp_path / "in.xlsx")


def test_a_file_that_is_one_array_of_json(label, models, tmp_path):
    path = tmp_path / "in.json"
    path.write_text('[\n {"text": "w1"}\n]\n')
    with pytest.raises(ValueError, match="one JSON array is not read: write an object a line"):
        label(models["plain"], path)
    path.write_text('{"text": "w1"}\n{"text": "w2"}\n')
    assert label(models["plain"], path).dataset["text"] == ["w1", "w2"]


def test_empty_lines_at_the_start_are_no_reason(label, models, tmp_path):
    (tmp_path / "in.txt").write_text("\n" * 150 + "w1\n")
    found = label(models["plain"], tmp_path / "in.txt")
    assert found.report.labelled == 1 and found.dataset["label"][:150] == [None] * 150
