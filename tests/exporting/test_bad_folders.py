"""A folder that an export did not write, or not as it is now: one sentence, before any row is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import fastmux
from fastmux.passes import processor
from fastmux.passes.runtimes.record import VERSION, digest


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported("plain"), tmp_path / "model")


def change(folder, **values):
    file = folder / "runtime.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


BAD = {
    "another version": (
        lambda folder: change(folder, version=99),
        "it was exported by another version of fastmux; export the model again",
    ),
    "no model": (
        lambda folder: (folder / "model.onnx").unlink(),
        "model.onnx, which runtime.json names, is not there; export the model again",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer.json, which runtime.json names, is not there; export the model again",
    ),
    "no record": (
        lambda folder: (folder / "runtime.json").unlink(),
        "runtime.json, which fastmux export writes, cannot be read",
    ),
    "a record that is cut": (
        lambda folder: cut(folder / "runtime.json"),
        "runtime.json, which fastmux export writes, cannot be read",
    ),
    "a record of something else": (
        lambda folder: (folder / "runtime.json").write_text("[1, 2]"),
        "it was exported by another version of fastmux",
    ),
    "a record without a field": (
        lambda folder: (folder / "runtime.json").write_text(f'{{"version": {VERSION}, "file": "model.onnx"}}'),
        "runtime.json is not as it was exported",
    ),
    "a runtime that is not known": (
        lambda folder: change(folder, runtime="tensorrt"),
        "runtime.json has runtime 'tensorrt', expected onnxruntime",
    ),
    "a model that is cut": (
        lambda folder: cut(folder / "model.onnx"),
        "model.onnx is not as it was exported: its SHA-256 is another",
    ),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer.json is not as it was exported: its SHA-256 is another",
    ),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_damaged_folder(damage, folder, tmp_path):
    spoil, message = BAD[damage]
    spoil(folder)
    (tmp_path / "rows.jsonl").write_text('{"text": "w1"}\n')
    for call in (
        lambda: fastmux.Labeller(folder),
        lambda: fastmux.predict(folder, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", disable_tqdm=True),
    ):
        with pytest.raises(ValueError, match=f"model '.*/model' cannot be loaded: {message}") as raised:
            call()
        assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.jsonl"]


def test_a_file_that_is_whole_and_no_model(folder):
    (folder / "model.onnx").write_bytes(b"no model")
    change(folder, files={name: digest(folder / name) for name in ("model.onnx", "tokenizer.json")})
    with pytest.raises(ValueError, match=r"cannot be loaded: ONNX Runtime does not take model\.onnx"):
        fastmux.Labeller(folder)


@pytest.mark.parametrize(
    ("flags", "fits"),
    [("fpu avx2", False), ("fpu avx2 avx512f", False), ("fpu avx2 avx_vnni", True), ("fpu avx512_vnni", True)],
)
def test_a_processor_without_products_of_bytes(flags, fits, exported, models, tokenizer, tmp_path, monkeypatch):
    int8 = exported("plain", "int8")
    monkeypatch.setattr(processor, "_cpuinfo", lambda: f"model name\t: Some CPU\nflags\t\t: {flags}\n")
    fastmux.Labeller(exported("plain"))
    if fits:
        fastmux.Labeller(int8)
        return
    for call in (
        lambda: fastmux.Labeller(int8),
        lambda: fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer, precision="int8"),
    ):
        with pytest.raises(ValueError, match="precision is 'int8', but this processor has neither AVX-VNNI"):
            call()
    assert not list(tmp_path.iterdir())


def test_without_the_runtime(exported, models, tokenizer, tmp_path, monkeypatch):
    folder = exported("plain")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime is not installed; pip install '.*\[onnx\]' adds what"):
        fastmux.Labeller(folder)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_package_of_the_exporter(package, models, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed; pip install '.*\[export\]' adds what"):
        fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "the model is exported and runs on the CPU: device is 'cuda', expected 'cpu'"),
        (
            {"dtype": "bfloat16"},
            "the model is exported and does not run in torch: dtype is 'bfloat16'; precision takes its place",
        ),
        ({"torch_compile": True}, "the model is exported and does not run in torch, but torch_compile is given"),
        ({"runtime": "torch"}, "runtime is 'torch', but model '.*' was exported with runtime='onnxruntime'"),
        ({"precision": "int8"}, "precision is 'int8', but model '.*' was exported with precision='float32'"),
        ({"max_length": 33}, "max_length is 33, but the model was exported for at most 32 tokens"),
    ],
)
def test_options_that_mean_nothing_for_it(options, message, exported, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "w1"}\n')
    with pytest.raises(ValueError, match=message):
        fastmux.Labeller(exported("plain"), **options)
    with pytest.raises(ValueError, match=message):
        fastmux.predict(exported("plain"), rows, tmp_path / "out.jsonl", disable_tqdm=True, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_command_says_the_same_in_its_words(exported, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "w1"}\n')
    command = [sys.executable, "-m", "fastmux", "predict", exported("plain"), tmp_path / "rows.jsonl"]
    command += ["--output", tmp_path / "out.jsonl", "--device", "cuda"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "fastmux predict: the model is exported and runs on the CPU: --device is 'cuda', expected 'cpu'\n"
    )
