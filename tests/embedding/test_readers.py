"""Vectors that `fastmux.embed` wrote are lists of one length for those who read tables, without a conversion."""

from __future__ import annotations

import datasets
import numpy as np
import polars
import pyarrow
import pyarrow.parquet
import pytest

import fastmux

ROWS = ["w1 w2", " ", "w3", "w4 w5 w6"]  # the second gets no vector


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    """``written(stored_as, ending)`` gives a file of vectors, and the vectors."""
    base, found = tmp_path_factory.mktemp("read"), {}

    def write(stored_as, ending):
        if (stored_as, ending) not in found:
            source, output = base / "in.txt", base / f"{stored_as}{ending}"
            source.write_text("\n".join(ROWS))
            fastmux.embed(folders["mean"], source, output, stored_as=stored_as, num_workers=0, disable_tqdm=True)
            read = pyarrow.parquet.read_table if ending == ".parquet" else _read_arrow
            found[stored_as, ending] = output, read(output)["embedding"].to_pylist()
        return found[stored_as, ending]

    return write


def _read_arrow(path):
    with pyarrow.ipc.open_file(path) as file:
        return file.read_all()


formats = pytest.mark.parametrize("ending", [".parquet", ".arrow"])
numbers = pytest.mark.parametrize("stored_as", ["float32", "float16", "int8"])


@numbers
@formats
def test_polars(written, stored_as, ending):
    path, expected = written(stored_as, ending)
    column = (polars.read_parquet if ending == ".parquet" else polars.read_ipc)(path)["embedding"]
    kind = {"float32": polars.Float32, "float16": polars.Float16, "int8": polars.Int8}[stored_as]
    assert column.dtype == polars.Array(kind, 32)
    assert column.is_null().to_list() == [not row.strip() for row in ROWS]
    assert column.drop_nulls().to_numpy().tolist() == [row for row in expected if row is not None]


@numbers
@formats
def test_datasets(written, stored_as, ending, tmp_path):
    path, expected = written(stored_as, ending)
    read = datasets.load_dataset(ending[1:], data_files=str(path), split="train", cache_dir=str(tmp_path))
    assert read.features["embedding"] == datasets.List(datasets.Value(stored_as), length=32)
    assert read["embedding"][:] == expected


# DuckDB 2.0 takes no float16 from Arrow.
@pytest.mark.parametrize(
    ("stored_as", "ending"),
    [("float32", ".parquet"), ("float16", ".parquet"), ("int8", ".parquet"), ("float32", ".arrow"), ("int8", ".arrow")],
)
def test_duckdb(written, stored_as, ending):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    path, expected = written(stored_as, ending)
    table = _read_arrow(path) if ending == ".arrow" else None
    number = "TINYINT" if stored_as == "int8" else "FLOAT"
    with duckdb.connect() as connection:
        if table is None:
            connection.sql(f"create view vectors as select * from '{path}'")
        else:
            connection.register("vectors", table)
        column = connection.sql("select embedding from vectors")
        # Parquet has no lists of one length; DuckDB casts those that it reads.
        assert str(column.types[0]) == number + ("[]" if table is None else "[32]")
        found = [None if row is None else list(row) for (row,) in column.fetchall()]
        assert found == expected
        nearest = connection.sql(
            "select array_distance(embedding::FLOAT[32], (select embedding::FLOAT[32] from vectors limit 1)) as d "
            "from vectors where embedding is not null"
        ).fetchall()
        there = np.array([row for row in expected if row is not None], np.float32)
        assert [d for (d,) in nearest] == pytest.approx(np.linalg.norm(there - there[0], axis=1).tolist(), rel=1e-4)
