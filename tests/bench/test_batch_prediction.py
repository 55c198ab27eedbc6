"""The benchmark of text to label: it runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
from thoroughness import on_request

from bench import predict, workload
from bench import rows as many_rows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film", "dull"]


@pytest.fixture
def data(tmp_path):
    for name in ("sst2", "conll2003", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\nfine film \t1\ndull\t0\nfilm dull\t0\n")
    (tmp_path / "conll2003" / "train.txt").write_text("fine O\nfilm B-MISC\n\ndull O\n")
    return tmp_path


def test_every_model_is_measured(data, capsys):
    options = "--preset tiny --num_instances 2 --rows 6 --rows_a_slot 3 --repeats 1 --batch_sizes 2 --clock cpu"
    arguments = ["--data_dir", str(data), "--num_workers", "0", "--device", "cpu", "--output", str(data / "out.json")]
    rows = predict.main([*arguments, *options.split()])
    assert [(row["task"], row["model"], row["num_instances"], row["rows"]) for row in rows] == [
        (task, *rest)
        for task in ("sequence", "token")
        for rest in (("plain", 1, 3), ("HF pipeline", 1, 3), ("unbind", 2, 6))
    ]
    assert all(row["rows_per_second"] > 0 and row["x_plain"] > 0 for row in rows)
    assert rows[0]["x_plain"] == 1 and set(rows[0]["seconds"]) >= {"model", "waiting", "writing", "total"}
    assert json.loads((data / "out.json").read_text())["rows"] == json.loads(json.dumps(rows))
    assert "of the model alone" in capsys.readouterr().out


@on_request
def test_memory_is_measured_with_and_without_many_rows(tmp_path, capsys):
    output = tmp_path / "rows.json"
    result = many_rows.main(["--rows", "3000", "--work_dir", str(tmp_path), "--output", str(output)])
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))
    assert (result["few"]["rows"], result["many"]["rows"]) == (1000, 3000)
    for one in (result["few"], result["many"]):
        assert 0 < one["until_first_rows_seconds"] < one["stages"]["total"]
        assert one["peak_bytes"] >= max(one["bytes_by_quarter"]) > one["peak_bytes_of_other_processes"] > 0
    assert "3,000 rows" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output], "the files are gone"


@pytest.mark.parametrize(("rows", "expected"), [(2, ["a", "c"]), (3, ["a", "b", "c"]), (5, ["a", "b", "c", "a", "b"])])
def test_rows_are_spread_or_repeated(rows, expected):
    assert workload.some(["a", "b", "c"], rows) == expected
