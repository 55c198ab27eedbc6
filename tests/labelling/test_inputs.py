"""What can be labelled, and what becomes of rows that cannot.

Longer than other files: every format meets the same inputs.
"""

from __future__ import annotations

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from labelling.reading import read_jsonl

from fastmux.tables import line_source, opening, table_source

ROWS = [
    {"text": "w1 w2", "note": "a,b"},
    {"text": "w3", "note": 'say "w"'},
    {"text": "w4 w5", "note": ""},
    {"text": "w6", "note": "l"},
]


def as_csv(rows):
    quoted = ("".join(f'"{row["text"]}",' + '"{}"\n'.format(row["note"].replace('"', '""')) for row in rows)).encode()
    return b"text,note\n" + quoted


def as_tsv(rows):
    return ("text\tnote\n" + "".join(f"{row['text']}\t{row['note']}\n" for row in rows)).encode()


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_text(rows):
    return "".join(row["text"] + "\n" for row in rows).encode()


WRITERS = {".csv": as_csv, ".tsv": as_tsv, ".jsonl": as_jsonl, ".txt": as_text}


@pytest.fixture(params=[*WRITERS, *(f"{ending}.gz" for ending in WRITERS), ".parquet"])
def file(request, tmp_path):
    path = tmp_path / f"in{request.param}"
    if request.param == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=3)
        return path
    content = WRITERS[request.param.removesuffix(".gz")](ROWS)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_in_and_out(label, models, tmp_path, file, ending):
    output = tmp_path / f"out{ending}"
    report = label(models["plain"], file, output, rows_per_shard=2).report
    assert (report.labelled, report.rejected, report.rejects) == (4, 0, None)
    expected = label(models["plain"], [row["text"] for row in ROWS], rows_per_shard=2).dataset
    if ending == ".jsonl":
        found = read_jsonl(output)
    elif ending == ".parquet":
        found = pyarrow.parquet.read_table(output).to_pylist()
    else:
        found = datasets.load_dataset(
            "csv", data_files=str(output), sep="," if ending == ".csv" else "\t", quoting=0 if ending == ".csv" else 3,
            keep_default_na=False, cache_dir=str(tmp_path / "cache"),
        )["train"].to_list()  # fmt: skip
    rows = [{"text": row["text"]} for row in ROWS] if ".txt" in file.name else ROWS
    assert found == [row | {k: r[k] for k in ("label", "score")} for row, r in zip(rows, expected, strict=True)]
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {file.name, output.name}


def test_json_stays_as_it_was_written(label, models, tmp_path):
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    line = '{ "text":"w1",  "big": 12345678901234567890.10, "\\u00e9": [1.0e5] }'
    path.write_text(f"{line}  \r\n")
    label(models["plain"], path, output)
    assert output.read_text().startswith(line[:-2] + ', "label": "LABEL_')


#: What stands in a line, and what is said of it. A good row stands before and behind each.
BAD = {
    ".jsonl": [
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xE9 at position 14"),
        (b"w1 w2", "not JSON: Expecting value"),
        (b'{"text": "w1"', "not JSON: "),
        (b'{"text": NaN}', "not JSON: NaN is no number of JSON"),
        (b"[" * 100_000, "not JSON: "),
        (b'["w1"]', "not a JSON object, but list"),
        (b'{"other": "w1"}', "has no column 'text', but 'other'"),
        (b"{}", "has no column 'text', but none"),
        (b'{"text": ""}', "column 'text' is empty"),
        (b'{"text": " \\n "}', "column 'text' is empty"),
        (b'{"text": null}', "column 'text' must be text, got 'None'"),
        (b'{"text": 7}', "column 'text' must be text, got '7'"),
        (b'{"text": ["w1"]}', "column 'text' must be text, got "),
        (b'{"text": "w\0"}', "holds a NUL"),
        (b'{"text": "w\\u0000"}', "column 'text' holds a NUL"),
        (b'{"text": "w\\ud800"}', "column 'text' holds half a character"),
        (b'{"text": "w1", "text": "w2"}', "has two columns 'text'"),
        (b'{"text": "' + b"w1 " * 40 + b'"}', "has 42 tokens, the limit is 32"),
        (b"", "empty"),
        (b" \t ", "empty"),
    ],
    ".txt": [(b"caf\xe9", "not UTF-8"), (b"w\0", "holds a NUL"), (b"", "empty"), (b"w1 " * 40, "has 42 tokens")],
    ".tsv": [
        (b"w1", "has 1 columns, expected the 2 of the first line"),
        (b"w1\tw2\tw3", "has 3 columns, expected the 2"),
        (b"\tw2", "column 'text' is empty"),
        (b"\xff\tw2", "not UTF-8"),
    ],
    ".csv": [
        (b"w1", "has 1 columns, expected the 2 of the first line"),
        (b'"w1"x,w2', "not CSV: "),
        (b'"w1,w2', "not CSV: "),
        (b'w1,"w2', "not CSV: "),
        (b"caf\xe9,w2", "not UTF-8"),
        (b'"caf\xe9",w2', "not UTF-8"),
        (b'"w\0",w2', "holds a NUL"),
        (b",w2", "column 'text' is empty"),
        (b"", "empty"),
    ],
}
FIRST = {".jsonl": b"", ".txt": b"", ".tsv": b"text\tnote\n", ".csv": b"text,note\n"}
GOOD = {".jsonl": b'{"text": "w1"}', ".txt": b"w1", ".tsv": b"w1\tx", ".csv": b"w1,x"}


@pytest.mark.parametrize("ending", BAD)
def test_bad_rows_are_put_aside_with_line_and_reason(label, models, tmp_path, ending):
    path, output = tmp_path / f"in{ending}", tmp_path / "out.jsonl"
    lines = [GOOD[ending]]
    for line, _ in BAD[ending]:
        lines += [line, GOOD[ending]]
    path.write_bytes(FIRST[ending] + b"\n".join(lines))
    report = label(models["plain"], path, output, rows_per_shard=3).report
    assert (report.labelled, report.rejected) == (len(BAD[ending]) + 1, len(BAD[ending]))
    found = read_jsonl(output)
    assert [row["label"] is not None for row in found] == [True, *[False, True] * len(BAD[ending])]
    rejects = read_jsonl(tmp_path / "out.jsonl.rejects.jsonl")
    header = FIRST[ending].count(b"\n")
    assert [reject["line"] for reject in rejects] == [2 * i + 2 + header for i in range(len(rejects))]
    for (line, reason), reject in zip(BAD[ending], rejects, strict=True):
        assert reject["reason"].startswith(reason), (line, reject)
        assert reject["content"] == line.decode("utf-8", "backslashreplace")
    assert report.rejects == str(tmp_path / "out.jsonl.rejects.jsonl")


def test_no_separator_within_a_row_ends_it(label, models, tmp_path):
    texts = [f"w1{mark}w2" for mark in "\u2028\u2029\u0085\x0b\x0c\x1c"]
    path = tmp_path / "in.txt"
    path.write_bytes("\r\n".join(texts).encode())
    assert label(models["plain"], path).dataset["text"] == texts
    path = tmp_path / "in.jsonl"
    path.write_bytes("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts).encode())
    output = tmp_path / "out.jsonl"
    label(models["plain"], path, output)
    assert [row["text"] for row in read_jsonl(output)] == texts
    output = tmp_path / "out.csv"
    label(models["plain"], path, output)
    assert output.read_bytes().count(b"\n") == len(texts) + 1


def test_a_line_without_an_end_takes_no_more_memory(label, models, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmux.tables.line_source.MAX_ROW_BYTES", 1000)
    monkeypatch.setattr("fastmux.tables.parsing.MAX_ROW_BYTES", 1000)
    path = tmp_path / "in.txt"
    path.write_bytes(b"w1\n" + b"w2 " * 5000 + b"\nw3\n" + b"x" * 3000)
    found = label(models["plain"], path, rejected="drop")
    assert found.dataset["text"] == ["w1", "w3"]
    assert [(reject.number, reject.reason) for reject in found.rejects] == [
        (2, "longer than 1000 bytes"),
        (4, "longer than 1000 bytes"),
    ]


def test_shards_end_early_where_rows_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(line_source, "SHARD_BYTES", 1000)
    monkeypatch.setattr(table_source, "SHARD_BYTES", 1000)
    path = tmp_path / "in.txt"
    path.write_bytes(b"".join(b"x" * 300 + b"\n" for _ in range(10)))
    assert [len(shard.rows) for shard in opening.open_source(path).shards(lambda index: 100)] == [4, 4, 2]
    table = pyarrow.table({"text": ["x" * 300] * 5000})
    shards = list(table_source.TableSource.of_dataset(datasets.Dataset(table)).shards(lambda index: 3000))
    assert sum(len(shard.rows) for shard in shards) == 5000 and max(len(shard.rows) for shard in shards) <= 1024
    assert [n for shard in shards for n in shard.numbers] == list(range(1, 5001))


@pytest.mark.parametrize("rows", [1, 7, 1000, 1024, 3000])
def test_shards_of_tables_have_so_many_rows(rows):
    table = pyarrow.table({"text": [str(i) for i in range(2500)]})
    shards = list(table_source.TableSource.of_dataset(datasets.Dataset(table)).shards(lambda index: rows))
    assert [row for shard in shards for row in shard.rows["text"].to_pylist()] == table["text"].to_pylist()
    assert {len(shard.rows) for shard in shards[:-1]} <= {rows}


def test_data_sets(label, models, tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    found = label(models["plain"], data)
    assert found.dataset.select_columns(["text", "note"]).to_list() == ROWS
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(tmp_path / "two")
    assert label(models["plain"], tmp_path / "one").dataset.to_list() == found.dataset.to_list()
    assert label(models["plain"], tmp_path / "two", split="test").dataset["text"] == ["w4 w5"]
    with pytest.raises(ValueError, match=r"two' has the splits train, test; say which with split"):
        label(models["plain"], tmp_path / "two")
    with pytest.raises(ValueError, match=r"two' has no split 'dev'"):
        label(models["plain"], tmp_path / "two", split="dev")
    with pytest.raises(ValueError, match=r"several splits, \['train'\]: give one of them"):
        label(models["plain"], datasets.DatasetDict({"train": data}))


def test_text_in_parquet_that_is_no_text(label, models, tmp_path):
    path = tmp_path / "in.parquet"
    strings = pyarrow.array([b"w1", b"caf\xe9", b"w2"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), path)
    found = label(models["plain"], path, rejected="drop")
    assert found.dataset["text"] == ["w1", "w2"]
    assert found.rejects[0].number == 2 and found.rejects[0].reason.startswith("column 'text' is not UTF-8: ")
    assert found.rejects[0].content == r'{"text": "caf\\xe9"}'
    label(models["plain"], path, tmp_path / "out.parquet")
    kept = pyarrow.parquet.read_table(tmp_path / "out.parquet")["text"].cast(pyarrow.binary())
    assert kept.to_pylist() == [b"w1", b"caf\xe9", b"w2"]
    with pytest.raises(ValueError, match="column 'text' of row 2 is not UTF-8"):
        label(models["plain"], path, tmp_path / "out.jsonl")


def test_the_column_is_found_or_named(label, models):
    both = [{"a": "w1", "b": "w2"}]
    assert label(models["plain"], [{"title": "w1"}]).dataset.column_names == ["title", "label", "score"]
    assert label(models["plain"], [{"id": 1, "sentence": "w1"}]).report.labelled == 1
    with pytest.raises(ValueError, match="has the columns 'a', 'b'; say with column which one is labelled"):
        label(models["plain"], both)
    assert label(models["plain"], both, column="b").report.labelled == 1
    for options in ({"column": "c"}, {"column": "a", "pair_column": "c"}):
        with pytest.raises(ValueError, match="has no column 'c'; there are 'a', 'b'"):
            label(models["plain"], both, **options)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_column_that_is_not_there_is_said_before_any_work(label, models, tmp_path, ending):
    path, output = tmp_path / f"in{ending}", tmp_path / "out.jsonl"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_bytes(WRITERS[ending](ROWS))
    with pytest.raises(ValueError, match=f"in{ending} has no column 'body'; there are 'text', 'note'"):
        label(models["plain"], path, output, column="body")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_new_columns_do_not_replace_others(label, models):
    rows = [{"text": "w1", "label": 5}]
    with pytest.raises(ValueError, match="has a column 'label' already; prefix gives the new columns other names"):
        label(models["plain"], rows)
    with pytest.raises(ValueError, match="has a column 'label' already"):  # and no fallback is loaded before
        label(models["plain"], rows, fallback="nowhere", min_confidence=0.9)
    assert label(models["plain"], rows, prefix="my_").dataset.column_names == ["text", "label", "my_label", "my_score"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "in.txt has no rows"),
        ("in.jsonl", b"", "in.jsonl has no rows"),
        ("in.csv", b"", "in.csv is empty, expected a first line with the names"),
        ("in.csv", b"text,note\n", "in.csv has no rows"),
        ("in.csv", b"text,text\nw1,w2\n", r"must name every column once, got \['text', 'text'\]"),
        ("in.tsv", b"caf\xe9\nw1\n", "in.tsv must be UTF-8, but line 1 has byte 0xE9"),
        ("in.jsonl", b"w1\nw2\n", "none of the first 2 lines is a row; line 1: not JSON"),
        ("in.txt", "w1".encode("utf-16"), "begins with the byte order mark of UTF-16"),
        ("in.txt.gz", b"w1", "cannot be read: Not a gzipped file"),
        ("in.txt.gz", gzip.compress(b"w1\n" * 10, mtime=0)[:-9], "cannot be read"),
        ("in.parquet", b"w1", "cannot be read as Parquet"),
        ("in.parquet.gz", b"w1", "must end in one of .jsonl, "),
        ("in.xls", b"w1", "must end in one of .jsonl, "),
    ],
)
def test_inputs_that_cannot_be_read(label, models, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        label(models["plain"], path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_input_of_another_ending_can_be_named(label, models, tmp_path):
    path = tmp_path / "rows.log"
    path.write_text("w1\nw2\n")
    assert label(models["plain"], path, input_format="text").report.labelled == 2


@pytest.mark.parametrize("given", ["none.jsonl", "./none", "/no/such/file"])
def test_an_input_that_is_not_there(label, models, given):
    with pytest.raises(ValueError, match="is not there"):
        label(models["plain"], given)


def test_what_is_no_input(label, models):
    with pytest.raises(ValueError, match="'nobody/nothing' is no file, and no data set that can be loaded: "):
        label(models["plain"], "nobody/nothing")
    for wrong in (7, [7], ["w1", None]):
        with pytest.raises(ValueError, match="expected texts, or rows by column"):
            label(models["plain"], wrong)
    with pytest.raises(ValueError, match="the list has no rows"):
        label(models["plain"], [])


@pytest.mark.parametrize("option", ["split", "dataset_name"])
def test_what_chooses_a_part_of_a_data_set_needs_one(option, models, label, tmp_path):
    (tmp_path / "rows.txt").write_text("w1\n")
    for given, what in ((tmp_path / "rows.txt", "rows.txt is a file"), (["w1"], "the input is a list")):
        with pytest.raises(ValueError, match=f"{option} is 'test', but .*{what}: it chooses"):
            label(models["plain"], given, **{option: "test"})
