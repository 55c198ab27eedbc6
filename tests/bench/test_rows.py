"""The benchmark of many rows, alone and beside another checkout: what it subtracts, says and leaves."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from thoroughness import on_request

from bench import rows
from bench.processes import ROOT


def test_what_few_rows_take_is_not_counted():
    many = [{"processor_seconds": 12.0, "seconds": 20.0, "peak_bytes": 200, "peak_bytes_of_other_processes": 100}]
    few = [{"processor_seconds": 2.0, "seconds": 5.0, "peak_bytes": 150, "peak_bytes_of_other_processes": 50}]
    assert rows.figures(many, few) == {"processor_seconds": 10.0, "seconds": 15.0, "peak_bytes": 300}


def test_the_section_gives_ratios_to_the_baseline():
    theirs = {"processor_seconds": 30.0, "seconds": 40.0, "peak_bytes": 200}
    ours = {"processor_seconds": 10.0, "seconds": 20.0, "peak_bytes": 100}
    result = {"rows": 1000, "num_instances": 10, "repeats": 1, "baseline": "a" * 40}
    said = "\n".join(rows.baseline_section(result | {"formats": {".jsonl": {"baseline": theirs, "ours": ours}}}))
    assert "| `.jsonl` to `.jsonl` | 100 | 3.00 | 2.00 | 2.00 |" in said


def test_rows_of_both_formats_are_the_same(tmp_path):
    for ending in (".jsonl", ".parquet"):
        rows.write_rows(tmp_path / f"rows{ending}", 30, wide=True)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == lines and len(lines[0]) == 8


@on_request
@pytest.mark.parametrize("given", [(), ("--embed",)], ids=["predict", "embed"])
def test_memory_is_measured_with_and_without_many_rows(given, tmp_path, capsys):
    output = tmp_path / "rows.json"
    result = rows.main(["--rows", "3000", "--work_dir", str(tmp_path), "--output", str(output), *given])
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))
    assert (result["few"]["rows"], result["many"]["rows"]) == (1000, 3000)
    for one in (result["few"], result["many"]):
        assert 0 < one["until_first_rows_seconds"] < one["stages"]["total"] < one["seconds"]
        assert one["peak_bytes"] >= max(one["bytes_by_quarter"]) > one["peak_bytes_of_other_processes"] > 0
    assert "3,000 short rows" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output], "the files are gone"


@on_request
def test_both_checkouts_are_measured(tmp_path, capsys):
    output = tmp_path / "out.json"
    result = rows.main(["--baseline", str(ROOT), "--rows", "3000", "--output", str(output)])
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))
    assert set(result["formats"]) == {".jsonl", ".parquet"} and "3,000 short rows" in capsys.readouterr().out
