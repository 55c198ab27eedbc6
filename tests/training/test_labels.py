"""What is a label: numbers, text and lists, in every format of a table, and what is none."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmux.training.tasks.labels import Classes, written
from fastmux.training.tasks.own_files import OwnFiles

NAN = float("nan")


def write(path: Path, labels: list) -> str:
    """A table of texts with these labels."""
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("text", "label"), *((row["text"], row["label"]) for row in rows)])
    return str(path)


def task(folder: Path, train: tuple[str, list], dev: tuple[str, list], problem_type: str | None = None) -> OwnFiles:
    files = [write(folder / f"{split}.{ending}", own) for split, (ending, own) in (("train", train), ("dev", dev))]
    return OwnFiles([files[0]], files[1], None, "text", None, ["label"], problem_type)


def read(folder: Path, *given, **options) -> tuple[list[str], list, list]:
    """Names of the labels, and the rows' labels in both splits."""
    data = task(folder, *given, **options).checked(None)
    return data.labels, data.train["label"][:], data.evaluation["validation"]["label"][:]


@pytest.mark.parametrize(
    ("train", "dev", "names", "ids"),
    [
        # Numbers are one label however they are written, whichever file they are in.
        (("jsonl", [0, 1, 0.0]), ("jsonl", [1.0, 0]), ["0", "1"], ([0, 1, 0], [1, 0])),
        (("jsonl", [0, 0.0, "0", 1]), ("csv", ["0", "1.0"]), ["0", "1"], ([0, 0, 0, 1], [0, 1])),
        (("csv", ["0.0", "1.0"]), ("jsonl", [1, 0]), ["0", "1"], ([0, 1], [1, 0])),
        (("csv", ["0", "1"]), ("parquet", [1.0, 0.0]), ["0", "1"], ([0, 1], [1, 0])),
        (("parquet", [2, 10, 1]), ("tsv", ["10", "+1", "2.0"]), ["1", "2", "10"], ([1, 2, 0], [2, 0, 1])),
        (("csv", ["-1", "0", "1"]), ("csv", ["-0", "-1.0", "1"]), ["-1", "0", "1"], ([0, 1, 2], [1, 0, 2])),
        (("jsonl", ["0", "1"]), ("jsonl", [1, 0]), ["0", "1"], ([0, 1], [1, 0])),
        (("jsonl", [0, 1]), ("jsonl", ["1", "0.0"]), ["0", "1"], ([0, 1], [1, 0])),
        (("jsonl", [2**53, 2**53 + 1]), ("csv", [str(2**53 + 1)]), [str(2**53), str(2**53 + 1)], ([0, 1], [1])),
        # Text stays text.
        (("jsonl", ["1.0", "1"]), ("csv", ["1.0", "1"]), ["1", "1.0"], ([1, 0], [1, 0])),
        (("csv", ["01", "1"]), ("jsonl", ["01", "1"]), ["01", "1"], ([0, 1], [0, 1])),
        (("csv", ["1.10", "1.1"]), ("jsonl", ["1.10", "1.1"]), ["1.1", "1.10"], ([1, 0], [1, 0])),
        (("csv", ["1.0", "beta"]), ("csv", ["beta"]), ["1.0", "beta"], ([0, 1], [1])),
        (("csv", ["no ", " yes"]), ("jsonl", ["yes"]), ["no", "yes"], ([0, 1], [1])),
        (("csv", ["[CLS]", "none"]), ("jsonl", ["none", "[CLS]"]), ["[CLS]", "none"], ([0, 1], [1, 0])),
        # True and false.
        (("jsonl", [True, False]), ("csv", ["True", "false"]), ["false", "true"], ([1, 0], [1, 0])),
        (("csv", ["True", "False"]), ("parquet", [False, True]), ["False", "True"], ([1, 0], [0, 1])),
    ],
)
def test_equal_labels_are_one(tmp_path, train, dev, names, ids):
    assert read(tmp_path, train, dev, "single_label_classification") == (names, *ids)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_that_pandas_made_floats(tmp_path, ending):
    labels = [1.0, 2.0, 3.0, 1.0]
    assert read(tmp_path, (ending, labels), ("csv", ["2", "3"])) == (["1", "2", "3"], [0, 1, 2, 0], [1, 2])


def test_narrow_and_exact_floats_are_the_same_numbers(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": pyarrow.array([0.1, 0.7], pyarrow.float32())})
    pyarrow.parquet.write_table(table, tmp_path / "narrow.parquet")
    exact = pyarrow.table({"text": ["a", "b"], "label": [Decimal("0.7"), Decimal("0.1")]})
    pyarrow.parquet.write_table(exact, tmp_path / "exact.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("narrow", "exact")]
    own = OwnFiles([files[0]], files[1], None, "text", None, ["label"], "single_label_classification")
    data = own.checked(None)
    assert data.labels == ["0.1", "0.7"] and data.evaluation["validation"]["label"][:] == [1, 0]


BAD = [
    ("jsonl", ["a", NAN], "line 2: not JSON: NaN is no number of JSON"),
    ("jsonl", ["a", None], "line 2: 'label' has no label$"),
    ("parquet", [0.0, NAN], "row 2: 'label' has no label, but nan"),
    ("parquet", ["a", None], "row 2: 'label' has no label$"),
    ("jsonl", [1, float("inf")], "line 2: not JSON: Infinity is no number of JSON"),
    ("parquet", [1, float("inf")], "row 2: 'label' has no label, but inf"),
    ("csv", ["a", "nan"], "line 3: 'label' has no label, but 'nan'"),
    ("csv", ["a", " "], "line 3: 'label' has no label$"),
    ("parquet", ["a", "<NA>"], "row 2: 'label' has no label, but '<NA>'"),
    ("jsonl", ["a", ["b"]], r"line 2: 'label' holds a list, \['b'\], expected one label; --problem_type multi_label"),
    ("csv", ["a", "['b', 'c']"], "line 3: 'label' holds a list"),
    ("csv", ["a", '["b"]'], "line 3: 'label' holds a list"),
    ("csv", ["a", "['b' 'c']"], r"line 3: 'label' looks like a list, \"\['b' 'c'\]\", but is none of JSON or Python"),
    ("csv", ["a", "[1 2]"], "line 3: 'label' looks like a list"),
    ("jsonl", ["a", {"b": 1}], "line 2: 'label' must be text, a number, true or false, got {'b': 1} .dict."),
    ("parquet", [b"a", b"b"], "row 1: 'label' must be text, a number, true or false, got b'a' .bytes."),
    ("jsonl", [True, 0], "train.jsonl: 'label' has true in some rows and numbers, 0, in others, expected one of them"),
]


@pytest.mark.parametrize(("ending", "labels", "message"), BAD)
def test_what_is_no_label_is_refused(tmp_path, ending, labels, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, (ending, labels), (ending, labels))


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (("jsonl", [0, 1]), ("jsonl", [1, 2.0]), r"dev.jsonl: line 2: 'label' must be one of \['0', '1'\], got '2'"),
        (("csv", ["a", "b"]), ("tsv", ["b", "c"]), r"dev.tsv: line 3: 'label' must be one of \['a', 'b'\], got 'c'"),
        (("csv", ["a", "b"]), ("jsonl", ["b", None]), "dev.jsonl: line 2: 'label' has no label"),
        (("jsonl", [True, False]), ("jsonl", [1]), r"must be one of \['false', 'true'\], got '1'"),
        (("jsonl", [0, 1]), ("jsonl", [True]), r"must be one of \['0', '1'\], got 'true'"),
        (("jsonl", ["1.0", "2.0"]), ("jsonl", [1]), r"must be one of \['1.0', '2.0'\], got '1'"),
    ],
)
def test_a_label_that_no_training_row_has_is_refused(tmp_path, train, dev, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, train, dev)


def test_lists_are_several_labels_in_any_order(tmp_path):
    train = ("jsonl", [["a", "b"], ["b", "a", "a"], [], ["c"]])
    names, rows, dev = read(tmp_path, train, ("parquet", [["c", "b"], ["a"]]), "multi_label_classification")
    assert names == ["a", "b", "c"]
    assert rows == [[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]] and dev == [[0, 1, 1], [1, 0, 0]]
    written_by_pandas = ("csv", ["['a', 'b']", '["b", "c"]', "[]"])
    assert read(tmp_path, train, written_by_pandas, "multi_label_classification")[2] == [
        [1, 1, 0],
        [0, 1, 1],
        [0, 0, 0],
    ]
    assert read(tmp_path, ("jsonl", [[0, 1.0], [1]]), ("csv", ["[1]"]), "multi_label_classification")[2] == [[0, 1]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], ["b", None]], "line 2: 'label' has no label in its list"),
        ([["a"], ["b", "nan"]], "line 2: 'label' has no label, but 'nan' in its list"),
        ([["a"], [["b"]]], r"line 2: 'label' must be text, a number, true or false, got \['b'\] \(list\) in its list"),
        ([["a"], "b"], "line 2: 'label' must be a list of labels, got 'b'"),
        ([["a"], None], "line 2: 'label' has no label"),
        ([[], []], "'label' is an empty list in every row"),
        ([[0.5, 0.25], [1]], "'label' holds lists of numbers such as 0.25, expected lists of labels"),
    ],
)
def test_lists_of_something_else_are_refused(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, ("jsonl", labels), ("jsonl", labels), "multi_label_classification")
    with pytest.raises(ValueError, match=r"dev.jsonl: line 1: 'label' must be one of \['a'\], got 'z'"):
        read(tmp_path, ("jsonl", [["a"]]), ("jsonl", [["z"]]), "multi_label_classification")


def test_measurements_are_no_classes_unless_one_says_so(tmp_path):
    values = np.random.default_rng(0).normal(size=200).round(2).tolist()
    different = len(set(values))
    for ending in ("jsonl", "csv", "parquet"):
        message = f"'label' has {different} different numbers, .* among them, in 200 rows: --problem_type regression"
        with pytest.raises(ValueError, match=message):
            read(tmp_path, (ending, values), (ending, values))
    names, rows, _ = read(tmp_path, ("csv", values), ("csv", values[:9]), "single_label_classification")
    assert len(names) == different and max(rows) == different - 1
    names, rows, dev = read(tmp_path, ("csv", values), ("jsonl", values[:9]), "regression")
    assert names == ["label"] and rows == values and dev == values[:9]


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        (list(range(77)) * 3, None),  # class ids
        (list(range(1, 78)) * 3, None),
        (list(range(18, 90)) * 9, "72 different numbers from 18 to 89 in 648 rows"),
        (list(range(77)), "77 different numbers from 0 to 76 in 77 rows"),
        ([0.5, 1.0, 1.5] * 9, "3 different numbers, 0.5 among them, in 27 rows"),
        ([f"title {n}" for n in range(40)], "40 different values in 40 rows, such as 'title 0': is it the label"),
        ([f"class {n % 40}" for n in range(200)], None),
        ([1, 5, 9] * 9, None),
    ],
)
def test_how_many_are_too_many(tmp_path, labels, refused):
    if refused is None:
        assert len(read(tmp_path, ("jsonl", labels), ("jsonl", labels))[0]) == len(set(labels))
        return
    with pytest.raises(ValueError, match=refused):
        read(tmp_path, ("jsonl", labels), ("jsonl", labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, "high"], "line 2: 'label' must be a number, got 'high'"),
        ([0.5, True], "line 2: 'label' must be a number, got True"),
        ([0.5, NAN], "line 2: not JSON: NaN"),
        ([0.5, 1e300], "line 2: 'label' must be a number, got 1e"),
        ([0.5, "1_0"], "line 2: 'label' must be a number, got '1_0'"),
        ([0.5, [1.0]], "line 2: 'label' must be text, a number"),
        ([0.5, 0.5], "'label' is 0.5 in every row, expected different numbers"),
    ],
)
def test_what_is_no_number_is_no_measurement(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, ("jsonl", labels), ("jsonl", labels), "regression")
    assert read(tmp_path, ("csv", ["1e-05", ".5", "7"]), ("csv", ["1.50", "2"]), "regression")[1:] == (
        [1e-05, 0.5, 7.0],
        [1.5, 2.0],
    )


def test_class_ids_have_the_names_that_the_file_has(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos", "mixed"])}
    )
    datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features).to_parquet(
        tmp_path / "train.parquet"
    )
    dev = write(tmp_path / "dev.csv", ["neg", "pos"])
    own = OwnFiles([str(tmp_path / "train.parquet")], dev, None, "text", None, ["label"], None)
    data = own.checked(None)
    assert data.labels == ["neg", "pos"] and data.train["label"][:] == [1, 0, 1]
    assert data.evaluation["validation"]["label"][:] == [0, 1]
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, 0]}, features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet: row 1: 'label' has no label"):
        own.checked(None)


def test_a_column_that_is_there_twice(tmp_path):
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    own = OwnFiles([str(tmp_path / "train.parquet")], "x", None, "text", None, ["label"], None)
    with pytest.raises(ValueError, match=r"train.parquet has 2 columns 'label'"):
        own.load(None)


def test_several_columns_are_labels_of_their_own():
    with pytest.raises(ValueError, match=r"--label_column names 2 columns, .* --problem_type regression is not for"):
        OwnFiles(["a"], "b", None, "text", None, ["x", "y"], "regression")


SCALARS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(min_size=1),
    st.booleans(),
).filter(lambda value: not isinstance(value, str) or value.strip() == value)


@settings(max_examples=100, deadline=None)
@given(found=st.lists(st.tuples(SCALARS, st.booleans()), min_size=1))
def test_every_label_of_the_training_rows_is_found_again(found):
    """Equal ones under one name, others under several; names differ."""
    found = [(value, typed or not isinstance(value, str)) for value, typed in found]
    try:
        classes = Classes(found)
    except ValueError as error:
        assert "expected one of them" in str(error)
        return
    assert len(set(classes.names)) == len(classes.names)
    assert {classes.id(value) for value, _ in found} == set(range(len(classes.names)))
    numbers = {}
    for value, _ in found:
        if not isinstance(value, str):
            assert numbers.setdefault((isinstance(value, bool), value), classes.id(value)) == classes.id(value)


@settings(max_examples=100, deadline=None)
@given(value=st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_that_python_writes_is_read_as_itself(value):
    assert written(str(value)) == value
