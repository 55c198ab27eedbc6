"""Rows of unlabelled text, out of files."""

import csv
import gzip
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from fastmux.distillation.texts import check_texts, read_texts, tokenize


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_row_a_line_and_blank_lines_are_none(tmp_path):
    one = write(tmp_path / "a.txt", "first\n\n  \nsecond\u2028still\r\n")
    two = tmp_path / "b.txt.gz"
    two.write_bytes(gzip.compress(b"third", mtime=0))
    assert read_texts([one, two]) == ["first", "second\u2028still", "third"]


ROWS = [{"text": "w1 {w2}", "label": 1, "other": "w5"}, {"text": 'w3, "w4"', "label": 0, "other": "w6"}]


def write_rows(path):
    """Rows with a label and another text, in the format that the name says."""
    if ".parquet" in path.name:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif ".csv" in path.name:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "other"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif ".tsv" in path.name:
        write(path, "label\tother\ttext\n" + "".join("{label}\t{other}\t{text}\n".format(**row) for row in ROWS))
    else:
        write(path, "".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_tables_give_the_text_that_predict_labels(tmp_path, ending):
    path = write_rows(tmp_path / f"a{ending}")
    assert read_texts([path]) == [row["text"] for row in ROWS]
    assert read_texts([path], "other", "text") == [(row["other"], row["text"]) for row in ROWS]
    with pytest.raises(ValueError, match="has no column 'body'; there are "):
        read_texts([path], "body")


def test_a_pair_is_tokenised_as_one(tmp_path, tokenizer):
    path = write(tmp_path / "pairs.tsv", "a\tb\nw1 w2\tw3\n\t\nw4\tw5 w6\n")
    rows = read_texts([path], "a", "b")
    assert rows == [("w1 w2", "w3"), ("w4", "w5 w6")]
    encoded = tokenize(rows, tokenizer, 16)
    assert encoded["input_ids"][0] == tokenizer("w1 w2", "w3")["input_ids"]
    assert encoded["token_type_ids"][0] == tokenizer("w1 w2", "w3")["token_type_ids"]
    assert encoded["length"] == [6, 6]


def test_a_tab_in_a_line_of_text_is_text(tmp_path):
    assert read_texts([write(tmp_path / "a.txt", "w1\tw2\n")]) == ["w1\tw2"]


def test_rows_are_cut_at_max_length(tokenizer):
    assert tokenize(["w1 w2 w3 w4", "w1"], tokenizer, 4)["length"] == [4, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.txt has no rows"),
        ("\n \n", r"a\.txt has no text in it"),
        (b"good\n\0\1\2", r"a\.txt: line 2 cannot be read: holds a NUL"),
        (b"good\n\xff\xfe", r"a\.txt: line 2 cannot be read: not UTF-8"),
        (gzip.compress(b"good\n", mtime=0), r"a\.txt must be lines of text, but it is packed by gzip and its name"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_line(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read_texts([write(tmp_path / "a.txt", data)])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt is not there"):
        read_texts([tmp_path / "none.txt"])
    with pytest.raises(ValueError, match=r"files is 'none.txt', expected a list of files"):
        read_texts("none.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 7}', "line 2 cannot be read: column 'text' must be text, got '7'"),
        ('{"text": ["w1"]}', "line 2 cannot be read: column 'text' must be text"),
        ("w1", "line 2 cannot be read: not JSON"),
        ('{"text": "a", "text": "b"}', "line 2 cannot be read: has two columns 'text'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_texts([write(tmp_path / "a.jsonl", f'{{"text": "w1"}}\n{line}\n')])


def test_rows_without_text_are_passed_over(tmp_path):
    lines = ['{"text": "w1"}', '{"text": null}', "", '{"text": " "}', '{"other": 1}', '{"text": "w2"}']
    assert read_texts([write(tmp_path / "a.jsonl", "\n".join(lines))]) == ["w1", "w2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("reviews.txt", "texts is 'reviews.txt', expected a list of texts; fastmux.read_texts reads files"),
        (Path("reviews.txt"), "texts is 'reviews.txt'"),
        ({"text": ["w1"]}, "texts is a dict, expected a list"),
        (pandas.DataFrame({"text": ["w1"]}), "texts is a DataFrame, expected a list"),
        (Dataset.from_dict({"text": ["w1"]}), "texts is a Dataset, expected a list"),
        (["w1", 3], "row 2 of texts must be text, got '3'"),
        (["w1", ""], "row 2 of texts is empty"),
        (["w1", ("w1", "w2")], "row 2 of texts is a pair of texts, but row 1 is a text"),
        ([("w1", "w2", "w3")], "row 1 of texts has 3 parts"),
    ],
)
def test_what_are_no_texts(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_texts(wrong)


def test_texts_of_any_kind_of_list():
    assert check_texts(pandas.Series(["w1", "w2"])) == check_texts(iter(["w1", "w2"])) == ["w1", "w2"]
    assert check_texts(Dataset.from_dict({"text": ["w1", "w2"]})["text"]) == ["w1", "w2"]
