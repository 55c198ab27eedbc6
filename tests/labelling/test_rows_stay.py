"""What a row holds beside its text comes out as it went in; what an output cannot hold is said before any work."""

from __future__ import annotations

import datetime
import json
import math

import datasets
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from labelling.reading import read_jsonl

import fastmux


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def as_parquet(label, models, tmp_path):
    """Rows of JSON lines, labelled into Parquet: the table without the new columns."""

    def run(rows) -> pyarrow.Table:
        output = tmp_path / "out.parquet"
        output.unlink(missing_ok=True)
        label(models["plain"], write_jsonl(tmp_path / "in.jsonl", rows), output)
        table = pyarrow.parquet.read_table(output)
        assert None not in table["label"].to_pylist() and table.column_names[-2:] == ["label", "score"]
        return table.drop_columns(["label", "score"])

    return run


@pytest.mark.parametrize(
    ("early", "late", "kind"),
    [
        (5, 5.9, pyarrow.float64()),
        ([1], [1.9], pyarrow.list_(pyarrow.float64())),
        ({"a": 1}, {"a": 1, "b": 2}, pyarrow.struct([("a", pyarrow.int64()), ("b", pyarrow.int64())])),
        (None, 7, pyarrow.int64()),
        (None, None, pyarrow.null()),
        ([], ["x"], pyarrow.list_(pyarrow.string())),
        (1, 2**63, pyarrow.uint64()),
        (-0.0, 2**53, pyarrow.float64()),
    ],
)
def test_a_schema_holds_late_rows_as_well_as_early_ones(as_parquet, early, late, kind):
    values = [early] * 120 + [late] * 80
    table = as_parquet([{"text": "w1", "x": value} for value in values])
    assert table.schema.field("x").type == kind
    wanted = [value | {"b": value.get("b")} if isinstance(value, dict) else value for value in values]
    assert table["x"].to_pylist() == wanted


def test_a_column_that_comes_late_or_goes_is_null_elsewhere(as_parquet):
    table = as_parquet([{"text": "w1", "a": 1}] * 150 + [{"text": "w1", "b": "x"}])
    assert table["a"].to_pylist() == [1] * 150 + [None] and table["b"].to_pylist() == [None] * 150 + ["x"]


@pytest.mark.parametrize(
    ("early", "late", "message"),
    [
        (1, "x", "column 'x' is text in row 121, and a number in row 1: a column of a table holds one type"),
        (True, 1, "column 'x' is a number in row 121, and a truth value in row 1"),
        ([1], ["x"], r"column 'x\[\]' is text in row 121, and a number in row 1"),
        ({"a": 1}, {"a": "x"}, r"column 'x.a' is text in row 121, and a number in row 1"),
        (1, 2**70, f"column 'x' of row 121 is {2**70}, which no integer type holds"),
        (-1, 2**63, f"column 'x' of row 121 is {2**63}, which no integer type holds beside -1 in row 1"),
        (0.5, 2**53 + 1, f"column 'x' of row 121 is {2**53 + 1}, more than a double holds, and row 1 has a fraction"),
        ("a", "\ud800", "column 'x' of row 121 holds half a character"),
        ({}, {}, r"column 'x' is struct<>, which \.parquet cannot hold"),
    ],
)
def test_what_no_column_holds_is_refused_before_any_work(label, models, tmp_path, early, late, message):
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": "w1", "x": early}] * 120 + [{"text": "w1", "x": late}])
    with pytest.raises(ValueError, match=message):
        label(models["plain"], path, tmp_path / "out.parquet")
    assert [left.name for left in tmp_path.iterdir()] == ["in.jsonl"]
    if early != {}:
        label(models["plain"], path, tmp_path / "out.jsonl")
        assert [row["x"] for row in read_jsonl(tmp_path / "out.jsonl")][-1] == late


@pytest.mark.parametrize("ending", [".parquet", ".csv", None])
def test_a_key_twice_is_refused_where_it_would_be_lost(label, models, tmp_path, ending):
    lines = ['{"text": "w1", "a": 1}', '{"text": "w2", "a": 1, "a": 2}']
    path = write_jsonl(tmp_path / "in.jsonl", lines)
    with pytest.raises(ValueError, match="row 2 has the key 'a' twice"):
        label(models["plain"], path, None if ending is None else tmp_path / f"out{ending}")
    label(models["plain"], path, tmp_path / "out.jsonl")
    assert '{"text": "w2", "a": 1, "a": 2, "label": ' in (tmp_path / "out.jsonl").read_text()


@pytest.mark.parametrize("key", ["label", "l\\u0061bel"])
def test_a_late_row_that_has_a_new_column_is_refused(label, models, tmp_path, key):
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": "w1"}] * 150 + [f'{{"text": "w1", "{key}": 1}}'])
    for ending in (".jsonl", ".parquet", ".csv"):
        with pytest.raises(ValueError, match="row 151 has a column 'label' already; prefix gives"):
            label(models["plain"], path, tmp_path / f"out{ending}")
    assert label(models["plain"], path, tmp_path / "out.jsonl", prefix="my_").report.labelled == 151


def test_numbers_of_json_stay_as_they_are_written(label, models, tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", ['{"text": "w1", "x": 123456789012345678901234567890, "y": 1e2}'])
    label(models["plain"], path, tmp_path / "out.jsonl")
    assert '"x": 123456789012345678901234567890, "y": 1e2, "label"' in (tmp_path / "out.jsonl").read_text()
    label(models["plain"], path, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().split("\n")[1].startswith("w1,123456789012345678901234567890,100.0,")
    write_jsonl(path, ['{"text": "w1", "x": 1e999}'])
    for ending in (".parquet", ".tsv"):
        with pytest.raises(ValueError, match="column 'x' of row 1 is a number beyond a double"):
            label(models["plain"], path, tmp_path / f"out{ending}")


def test_delimited_rows_keep_their_bytes(label, models, tmp_path):
    lines = ['"text",note,"a, ""b"""', '"w1",  x ,"1"', 'w2,"a\nb",', "w3"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    label(models["plain"], tmp_path / "in.csv", tmp_path / "out.csv")
    found = (tmp_path / "out.csv").read_text()
    assert found.startswith('"text",note,"a, ""b""",label,score\n"w1",  x ,"1",LABEL_')
    assert '\nw2,"a\nb",,LABEL_' in found and found.endswith("\n,,,,\n")


EXTRA = [{"text": "w1"}, {"text": "w2", "extra": 3}, {"text": "w3", "more": {"a": 1}}]


def test_a_key_of_a_later_row_stays(label, models):
    found = label(models["plain"], EXTRA).dataset
    assert found["extra"] == [None, 3, None] and found["more"] == [None, None, {"a": 1}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "x"], "column 'x' of row 2 is 'x', which does not go into one column with those before it"),
        ([1.5, True], "column 'x' of row 2 is True"),
        ([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 5)], "column 'x' of row"),
        ([2**60 + 1, 0.5], "column 'x' of row"),
        ([object()], "column 'x' of row 1 is <object"),
    ],
)
def test_values_of_python_that_no_column_holds(label, models, values, message):
    with pytest.raises(ValueError, match=message):
        label(models["plain"], [{"text": "w1", "x": value} for value in values])


def tables_of_many_kinds():
    columns = {"id": [1, 2], "text": ["w1", "w2"]}
    yield pyarrow.table(columns)
    yield pyarrow.table(columns).to_batches()[0]
    yield pandas.DataFrame(columns)
    yield polars.DataFrame(columns)
    yield columns
    yield datasets.Dataset.from_dict(columns)
    yield [{"id": 1, "text": "w1"}, {"id": 2, "text": "w2"}]


@pytest.mark.parametrize("table", tables_of_many_kinds(), ids=lambda table: type(table).__module__.split(".")[0])
def test_a_table_is_a_table(label, models, table):
    found = label(models["plain"], table).dataset
    assert found["text"] == ["w1", "w2"] and found["id"] == [1, 2] and found.column_names[-1] == "score"


@pytest.mark.parametrize("column", [pandas.Series, polars.Series, pyarrow.array, tuple, iter])
def test_a_column_is_texts(label, models, column):
    assert label(models["plain"], column(["w1", "w2"])).dataset["text"] == ["w1", "w2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "w1"}, "expected columns by name, but 'text' is a str; rows go into a list"),
        ({"text": ["w1"], "id": [1, 2]}, "the columns have other lengths"),
        (["w1", {"text": "w2"}], "row 2 of the list is a dict, expected texts, or rows by column, all alike"),
        ([{"text": "w1", 3: 4}], "row 1 of the list has a column 3, expected a name"),
        (b"w1", "the input is a bytes"),
        ({"w1"}, "the input is a set"),
        (pandas.DataFrame({"text": ["w1"], "x": [{1, 2}]}), "column 'x' of row 1 is {1, 2}, which a column of list"),
        (pandas.DataFrame({"text": ["w1", "w2"], "x": [1, "a"]}), "cannot be read as a table"),
        (pandas.DataFrame([["w1", "w2"]], columns=["text", "text"]), "cannot be read as a table"),
        (pyarrow.table({"text": [1]}), "column 'text' is int64, expected text"),
    ],
)
def test_what_is_no_table(label, models, wrong, message):
    with pytest.raises(ValueError, match=message):
        label(models["plain"], wrong)


def test_two_columns_of_one_name(label, models, tmp_path):
    names, path = ["a", "text", "a"], tmp_path / "in.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array(["w1"]), pyarrow.array([2])], names=names)
    pyarrow.parquet.write_table(table, path)
    label(models["plain"], path, tmp_path / "out.parquet")
    found = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").read()
    assert found.select([0, 1, 2]).equals(table) and found.column_names == [*names, "label", "score"]
    for ending in (".jsonl", ".csv"):
        with pytest.raises(ValueError, match=f"has two columns 'a', which {ending} cannot hold"):
            label(models["plain"], path, tmp_path / f"no{ending}")
    pyarrow.parquet.write_table(table.rename_columns(["text", "text", "a"]), path)
    with pytest.raises(ValueError, match="has 2 columns 'text'; give them names of their own"):
        label(models["plain"], path, tmp_path / "no.parquet")


def test_what_python_has_no_object_for_stays(label, models, tmp_path):
    """A nanosecond, a year beyond 9999, two keys of one name in an object."""
    pair = pyarrow.StructArray.from_arrays([pyarrow.array([1]), pyarrow.array(["x"])], names=["k", "k"])
    table = pyarrow.table(
        {
            "ns": pyarrow.array([1], pyarrow.timestamp("ns")),
            "far": pyarrow.array([2**55], pyarrow.timestamp("ms")),
            "pair": pair,
            "text": ["w1"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    label(models["plain"], tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").select(range(4)).equals(table)


@pytest.mark.parametrize(
    ("column", "ending", "message"),
    [
        (pyarrow.array([datetime.datetime(2020, 1, 1)]), ".jsonl", r"is timestamp\[us\], and .jsonl cannot hold"),
        (pyarrow.array([b"x"]), ".csv", "is binary, and .csv cannot hold binary"),
        (pyarrow.array([math.nan]), ".jsonl", "column 'x' of row 1 is nan, and .jsonl cannot hold NaN"),
        (pyarrow.array(["a\tb"]), ".tsv", "column 'x' of row 1 holds a tab"),
        (pyarrow.array([1], pyarrow.timestamp("s")), ".parquet", r"it would be timestamp\[ms\]"),
    ],
)
def test_what_a_format_has_nothing_for(label, models, tmp_path, column, ending, message):
    with pytest.raises(ValueError, match=message):
        label(models["plain"], pyarrow.table({"text": ["w1"], "x": column}), tmp_path / f"out{ending}")
    assert not any(tmp_path.iterdir())


def test_rejected_rows_stay_in_their_place(label, models, tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", ['{"text": "w1", "id": 1}', '{"text": "", "id": 2}', "no row", "{}"])
    label(models["plain"], path, tmp_path / "keep.jsonl")
    first, second, third, fourth = read_jsonl(tmp_path / "keep.jsonl")
    assert first["label"] and second == {"text": "", "id": 2, "label": None, "score": None}
    assert third == fourth == {"label": None, "score": None}
    label(models["plain"], path, tmp_path / "reason.jsonl", rejected="reason")
    reasons = [row["error"] for row in read_jsonl(tmp_path / "reason.jsonl")]
    assert reasons[:2] == [None, "column 'text' is empty"] and reasons[2].startswith("not JSON")
    label(models["plain"], path, tmp_path / "drop.jsonl", rejected="drop")
    assert [row["id"] for row in read_jsonl(tmp_path / "drop.jsonl")] == [1]
    rejects = read_jsonl(tmp_path / "drop.jsonl.rejects.jsonl")
    assert [row["content"] for row in rejects] == ['{"text": "", "id": 2}', "no row", "{}"]
    found = label(models["plain"], path, rejected="reason")
    assert found.dataset["id"] == [1, 2, None, None] and found.dataset["label"][1:] == [None] * 3
    assert found.dataset["error"] == reasons
    dropped = label(
        models["plain"], pyarrow.table({"text": ["", "w1", None, "w2"], "id": [1, 2, 3, 4]}), rejected="drop"
    )
    assert dropped.dataset["id"] == [2, 4] and dropped.rejects[1].content == '{"text": null, "id": 3}'
    with pytest.raises(ValueError, match="rejected is 'gone', expected one of 'keep', 'reason', 'drop'"):
        label(models["plain"], path, rejected="gone")


@pytest.mark.parametrize("rejected", ["keep", "reason", "drop"])
@pytest.mark.parametrize("name", ["tagger", "plain"])
def test_every_kind_of_answer_may_be_missing(label, models, tmp_path, rejected, name):
    rows = pyarrow.table({"text": ["", "w1 w2", " "]})
    for ending in (".jsonl", ".csv", ".parquet"):
        report = label(models[name], rows, tmp_path / f"{name}{ending}", rejected=rejected, all_scores=True).report
        assert (report.labelled, report.rejected) == (1, 2)
    kept = len(pyarrow.parquet.read_table(tmp_path / f"{name}.parquet"))
    assert kept == len(read_jsonl(tmp_path / f"{name}.jsonl")) == (1 if rejected == "drop" else 3)


def named(model, id2label):
    config = type(model.config)(**model.config.to_dict())
    config.id2label = id2label
    model = type(model)(config)
    return model.eval()


def test_two_labels_of_one_name(label, models, tokenizer):
    model = named(models["plain"], {0: "neg", 1: "neutral", 2: "neg"})
    assert set(label(model, ["w1", "w2"]).dataset["label"]) <= {"neg", "neutral"}
    labeller = fastmux.Labeller(model, tokenizer)
    assert labeller(["w1"])[0]["label"] in ("neg", "neutral")
    for call in (lambda: label(model, ["w1"], all_scores=True), lambda: labeller(["w1"], all_scores=True)):
        with pytest.raises(ValueError, match="id2label of the model has 'neg' for 0 and 2"):
            call()


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 1, 3)])
def test_ids_of_labels_that_are_not_those_from_zero(label, models, tokenizer, ids):
    model = named(models["plain"], dict(zip(ids, "abc", strict=True)))
    for call in (lambda: label(model, ["w1"]), lambda: fastmux.Labeller(model, tokenizer)):
        with pytest.raises(ValueError, match=f"has the ids {', '.join(map(str, ids))}, expected 0 to 2"):
            call()


@pytest.mark.parametrize("rows", ["w1 w2", b"w1", {"text": "w1"}, pandas.DataFrame({"text": ["w1"]}), 3])
def test_a_labeller_takes_a_list_of_rows(models, tokenizer, rows):
    with pytest.raises(ValueError, match=r"rows is a \w+, expected a list of rows"):
        fastmux.Labeller(models["plain"], tokenizer)(rows)


def test_a_labeller_takes_what_gives_rows(models, tokenizer):
    labeller = fastmux.Labeller(models["plain"], tokenizer)
    assert labeller(iter(["w1"])) == labeller(pandas.Series(["w1"])) == labeller(["w1"])
