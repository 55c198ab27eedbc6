"""The rows that come out are those that went in, value and type, or none is labelled: for tables of any types."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelling.drawing import arrow_tables, json_rows
from labelling.reading import read_jsonl
from thoroughness import ALL

from fastmux.tables.seen import CannotHoldError

OUTPUTS = [".jsonl", ".parquet", ".csv", ".tsv", None]
DRAWN = settings(
    max_examples=400 if ALL else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def plain_model(models):
    return models["plain"]


def run(label, model, given_rows, ending, folder: Path, **options):
    """What was written, as a table, rows or lines; None where all was refused and nothing written."""
    output = None if ending is None else folder / f"out{ending}"
    before = {path.name for path in folder.iterdir()}
    try:
        found = label(model, given_rows, output, rows_per_shard=4, **options)
    except CannotHoldError as error:
        assert {path.name for path in folder.iterdir()} == before
        return str(error)
    if ending is None:
        return found.dataset.data.table
    if ending == ".parquet":  # names may be there twice
        return pyarrow.parquet.ParquetFile(output).read()
    return read_jsonl(output) if ending == ".jsonl" else output


def shown(value) -> str:
    """Equal for equal values of equal types, NaN and the sign of zero included."""
    return repr(value)


def same_table(found: pyarrow.Table, given_table: pyarrow.Table, dictionaries: bool = True) -> None:
    own = found.select(range(given_table.num_columns))
    assert found.column_names == [*given_table.column_names, "label", "score"]
    for held, wanted in zip(own.schema, given_table.schema, strict=True):
        kind = wanted.type
        if not dictionaries and pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if pyarrow.types.is_dictionary(kind):
            assert (held.type == kind) or (held.type in (kind.value_type, pyarrow.dictionary("int32", kind.value_type)))
        else:
            assert held.type == kind, wanted
    for held, wanted in zip(own.columns, given_table.columns, strict=True):
        assert shown(held.to_pylist()) == shown(wanted.to_pylist())


def plain(value):
    """A value of Arrow as JSON has it."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return float(value) if hasattr(value, "dtype") else value


def cell(value) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def cells_of(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode()
    if path.suffix == ".tsv":
        return [line.split("\t") for line in text.split("\n")[:-1]]
    return list(csv.reader(io.StringIO(text, newline="")))


def check_lines(found, ending, names, rows) -> None:
    """Rows, by column, against what was written as JSON lines, CSV or TSV."""
    if ending == ".jsonl":
        own = [{key: row[key] for key in row if key not in ("label", "score")} for row in found]
        assert shown(own) == shown(rows)
        assert all({"label", "score"} <= set(row) for row in found)
    else:
        header, *lines = cells_of(found)
        assert header == [*names, "label", "score"]
        assert [line[: len(names)] for line in lines] == [[cell(row.get(name)) for name in names] for row in rows]


@pytest.mark.parametrize("ending", OUTPUTS)
@DRAWN
@given(table=arrow_tables(), from_file=st.booleans())
def test_tables_of_any_types(label, plain_model, ending, table, from_file):
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), table
        if from_file:
            try:
                pyarrow.parquet.write_table(table, folder / "in.parquet")
            except pyarrow.ArrowException:
                return  # no such file can be
            source = folder / "in.parquet"
            table = pyarrow.parquet.ParquetFile(source).read()
        found = run(label, plain_model, source, ending, folder)
    if isinstance(found, str):
        assert "column" in found
        assert not (from_file and ending == ".parquet"), found
    elif ending in (None, ".parquet"):
        same_table(found, table, dictionaries=ending is not None)
        if ending:  # a data set has its own
            assert (table.schema.metadata or {}).items() <= (found.schema.metadata or {}).items()
            for held, wanted in zip(found.schema, table.schema, strict=False):
                assert (wanted.metadata or {}).items() <= (held.metadata or {}).items()
    elif ending == ".jsonl":
        check_lines(found, ending, table.column_names, [plain(row) for row in table.to_pylist()])


def filled(value, kind: pyarrow.DataType):
    """A value of JSON as a column of that type holds it: keys that an object lacks are null, integers doubles."""
    if value is None:
        return None
    if pyarrow.types.is_struct(kind):
        return {field.name: filled(value.get(field.name), field.type) for field in kind}
    if pyarrow.types.is_list(kind):
        return [filled(inner, kind.value_type) for inner in value]
    if isinstance(value, int) and pyarrow.types.is_floating(kind):
        assert float(value) == value
        return float(value)
    return value


@pytest.mark.parametrize("ending", OUTPUTS)
@DRAWN
@given(rows=json_rows())
def test_json_lines_of_any_shape(label, plain_model, ending, rows):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "in.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        found = run(label, plain_model, path, ending, Path(name))
        assert ending != ".jsonl" or not isinstance(found, str)
        names = list(dict.fromkeys(key for row in rows for key in row))
        if isinstance(found, str):
            assert "column" in found and ("row" in found or "struct<>" in found)
        elif isinstance(found, pyarrow.Table):
            assert found.column_names == [*names, "label", "score"]
            kind = pyarrow.struct(list(found.schema)[: len(names)])
            assert shown(found.select(names).to_pylist()) == shown([filled(row, kind) for row in rows])
        else:
            check_lines(found, ending, names, rows)


@DRAWN
@given(rows=json_rows())
def test_rows_of_python(label, plain_model, rows):
    with tempfile.TemporaryDirectory() as name:
        found = run_in_memory(label, plain_model, rows, Path(name))
    if isinstance(found, str):
        assert "column" in found
    else:
        names = list(dict.fromkeys(key for row in rows for key in row))
        kind = pyarrow.struct(list(found.schema)[: len(names)])
        assert shown(found.select(names).to_pylist()) == shown([filled(row, kind) for row in rows])


def run_in_memory(label, model, rows, folder):
    try:
        return run(label, model, rows, None, folder)
    except ValueError as error:
        return str(error)


def test_a_drawn_difference_is_seen():
    """What compares tables tells values and types apart."""
    table = pyarrow.table({"a": [1.0, math.nan], "label": ["x", "y"], "score": [0.5, 0.5]})
    same_table(table, table.select(["a"]))
    for other in (pyarrow.table({"a": [1, 2]}), pyarrow.table({"a": [1.0, 2.0]})):
        with pytest.raises(AssertionError):
            same_table(table, other)
