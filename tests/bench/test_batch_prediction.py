"""The benchmark of text to label: it runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
from thoroughness import on_request

from bench import predict, workload
from fastmux.passes.runtimes import torch as torch_runtime

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


def test_where_rows_are_packed_the_same_model_is_measured_padded(data, monkeypatch, capsys):
    monkeypatch.setattr(torch_runtime, "has_kernel", lambda device, dtype, width: True)
    options = "--preset tiny --num_instances 2 --rows 6 --rows_a_slot 3 --repeats 1 --batch_sizes 2 --tasks sequence"
    arguments = ["--data_dir", str(data), "--num_workers", "0", "--device", "cpu", "--output", str(data / "out.json")]
    plain, _, multiplexed = predict.main([*arguments, *options.split()])
    assert plain["packed_x_padded"] > 0 and multiplexed["packed_x_padded"] > 0
    assert "x as fast as padded" in capsys.readouterr().out


@on_request
def test_onnx_runtime_is_measured_beside_the_plain_encoder(data):
    options = "--preset tiny --num_instances 2 --rows 6 --rows_a_slot 3 --repeats 1 --batch_sizes 2 --onnx"
    where = ["--data_dir", str(data), "--num_workers", "0", "--device", "cpu", "--output", str(data / "out.json")]
    rows = predict.main([*where, "--tasks", "sequence", *options.split()])
    assert [row["model"] for row in rows] == ["plain", "HF pipeline", "ONNX int8", "unbind"]
    assert rows[2]["rows_per_second"] > 0 and rows[2]["rows"] == 3


@pytest.mark.parametrize(("rows", "expected"), [(2, ["a", "c"]), (3, ["a", "b", "c"]), (5, ["a", "b", "c", "a", "b"])])
def test_rows_are_spread_or_repeated(rows, expected):
    assert workload.some(["a", "b", "c"], rows) == expected
