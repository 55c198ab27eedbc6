"""``runtime="onnxruntime"`` of a Hugging Face model: exported once, kept, and run without torch from then on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import _cache_assets
from thoroughness import on_request
from transformers import BertForSequenceClassification

import fastmux
from fastmux.exporting import export as exporting
from fastmux.labelling import kept
from fastmux.labelling.classifier import Classifier

ONNX = {"runtime": "onnxruntime"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where models are kept that cannot be kept beside themselves."""
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exports(monkeypatch):
    """The folders that are exported to, one after the other."""
    calls, export = [], exporting.export

    def counted(model, output_dir, **options):
        calls.append(Path(output_dir))
        return export(model, output_dir, **options)

    monkeypatch.setattr(exporting, "export", counted)
    return calls


def near(one, other):
    assert [row["label"] for row in one] == [row["label"] for row in other]
    assert all(abs(a["score"] - b["score"]) < 1e-3 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["plain", "rows", pytest.param("positions", marks=on_request), "unbind"])
def test_it_answers_as_torch_does(kind, folder, texts, exports):
    model = folder(kind)
    near(fastmux.Labeller(model, **ONNX)(texts), fastmux.Labeller(model)(texts))
    assert [path.parent for path in exports] == [model / ".fastmux"]


def test_a_tagger(folder, texts, tmp_path):
    model = folder("tagger")
    options = {"num_workers": 0, "disable_tqdm": True}
    ours = fastmux.predict(model, texts, **ONNX, **options).dataset
    assert ours["tags"] == fastmux.predict(model, texts, **options).dataset["tags"]


def test_it_is_exported_once_in_each_precision(folder, texts, exports):
    model = folder("plain")
    (model / "cascade.json").write_text("{}")  # what changes no answer
    first = [fastmux.Labeller(model, **ONNX, precision=precision)(texts) for precision in ("float32", "int8")]
    (model / "cascade.json").write_text("[]")
    again = [fastmux.Labeller(model, **ONNX, precision=precision)(texts) for precision in ("float32", "int8")]
    assert first == again and first[0] != first[1] and len(exports) == 2
    there = sorted(path.name for path in (model / ".fastmux").iterdir())
    assert [name.rpartition("-")[0] for name in there] == ["", "onnxruntime-float32", "onnxruntime-int8"]


@on_request
def test_other_weights_and_another_tokenizer_are_exported_anew(folder, models, tokenizer, texts, exports):
    model = folder("plain")
    fastmux.Labeller(model, **ONNX)
    torch.manual_seed(1)
    BertForSequenceClassification(models["plain"].config).save_pretrained(model)
    near(fastmux.Labeller(model, **ONNX)(texts), fastmux.Labeller(model)(texts))
    words = dict(tokenizer.get_vocab())
    words["w0"], words["w1"] = words["w1"], words["w0"]
    type(tokenizer)(vocab=words).save_pretrained(model)
    near(fastmux.Labeller(model, **ONNX)(texts), fastmux.Labeller(model)(texts))
    assert len(exports) == 3
    assert len(list((model / ".fastmux").glob("onnx*"))) == 1, "what is kept of former weights"


@pytest.mark.parametrize(
    "damage", ["cut", *(pytest.param(how, marks=on_request) for how in ("gone", "former version"))]
)
def test_what_is_damaged_is_made_again(damage, folder, texts, exports):
    model = folder("plain")
    expected = fastmux.Labeller(model, **ONNX)(texts)
    (kept_there,) = (model / ".fastmux").glob("onnx*")
    if damage == "cut":
        (kept_there / "model.onnx").write_bytes(b"")
    elif damage == "gone":
        (kept_there / "tokenizer.json").unlink()
    else:
        (kept_there / "runtime.json").write_text('{"version": 1}')
    abandoned = model / ".fastmux" / ".onnxruntime-float32-00.writing-1"
    abandoned.mkdir()
    assert fastmux.Labeller(model, **ONNX)(texts) == expected
    assert len(exports) == 2 and not abandoned.exists()


def test_a_folder_that_cannot_be_written(folder, texts, exports, cache, monkeypatch):
    model = folder("plain")
    access = os.access
    monkeypatch.setattr(kept.os, "access", lambda path, mode: Path(path) != model and access(path, mode))
    for _ in range(2):
        fastmux.Labeller(model, **ONNX)(texts)
    assert not (model / ".fastmux").exists() and [cache in path.parents for path in exports] == [True]


def test_neither_it_nor_the_cache(folder, cache, monkeypatch):
    model = folder("plain")
    monkeypatch.setattr(kept.os, "access", lambda path, mode: False)
    cache.write_text("a file")
    with pytest.raises(ValueError, match="no folder for the exported model can be written, nor the cache: "):
        fastmux.Labeller(model, **ONNX)


@on_request
def test_a_model_of_the_hub(folder, texts, exports, cache, tmp_path, monkeypatch):
    """In Hugging Face's cache, as it was loaded before."""
    hub = tmp_path / "hub" / "models--someone--reviews"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder("plain"), hub / "snapshots" / ("0" * 40))
    code = (
        "import sys, json, fastmux\n"
        "found = fastmux.Labeller('someone/reviews', runtime='onnxruntime')(['w1 w2'])\n"
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(hub.parent), "HF_ASSETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    said = []
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        said.append(ended.stdout.splitlines()[-1].rpartition(", "))
    assert said[0][0] == said[1][0] and [end for *_, end in said] == ["true]", "false]"]
    assert list(cache.rglob("model.onnx"))


def test_a_model_in_memory(models, tokenizer, texts, exports, cache):
    for _ in range(2):
        found = fastmux.Labeller(models["rows"], tokenizer, **ONNX)(texts)
    near(found, fastmux.Labeller(models["rows"], tokenizer)(texts))
    assert len(exports) == 1 and cache in exports[0].parents


@on_request
def test_a_tokenizer_that_is_given_counts(folder, tokenizer, texts, exports):
    model = folder("plain")
    fastmux.Labeller(model, **ONNX)
    words = dict(tokenizer.get_vocab())
    words["w0"], words["w1"] = words["w1"], words["w0"]
    other = type(tokenizer)(vocab=words)
    near(fastmux.Labeller(model, other, **ONNX)(texts), fastmux.Labeller(model, other)(texts))
    assert len(exports) == 2


def test_longer_rows_than_usual_may_be_asked_for(folder, tokenizer):
    model = folder("plain")
    tokenizer.__class__.from_pretrained(model, model_max_length=16).save_pretrained(model)
    for runtime in ("torch", "onnxruntime"):
        assert fastmux.Labeller(model, runtime=runtime).max_length == 16
        long = fastmux.Labeller(model, runtime=runtime, max_length=30)
        assert "label" in long([" ".join(["w1"] * 25)])[0]
    with pytest.raises(ValueError, match="max_length is 33, but the model was exported for at most 32 tokens"):
        fastmux.Labeller(model, **ONNX, max_length=33)


@on_request
def test_a_cascade_runs_in_it_as_a_whole(folder, texts, exports):
    fast, good = folder("unbind"), folder("plain")
    both = {"fallback": good, "min_confidence": 0.9}
    near(fastmux.Labeller(fast, **both, **ONNX)(texts), fastmux.Labeller(fast, **both)(texts))
    assert [path.parent.parent.name for path in exports] == ["unbind", "plain"]


PREDICT = """
import sys
from fastmux.cli.main import main
main(["predict", sys.argv[1], sys.argv[2], "--output", sys.argv[3], "--disable_tqdm", "--num_workers", "0",
      "--runtime", "onnxruntime", "--precision", "int8"])
print([name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""


@on_request
def test_two_at_once_export_once_and_the_next_needs_no_torch(folder, texts, tmp_path):
    model, rows = folder("plain"), tmp_path / "rows.txt"
    rows.write_text("\n".join(texts) + "\n")

    def start(number):
        command = [sys.executable, "-c", PREDICT, str(model), str(rows), str(tmp_path / f"{number}.jsonl")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    said = [process.communicate() for process in [start(0), start(1)]]
    assert sum("fastmux predict: exporting the model for onnxruntime in int8, once: " in err for _, err in said) == 1
    out, err = start(2).communicate()
    assert (out.splitlines()[-1], err) == ("[]", "")
    first, *others = [(tmp_path / f"{number}.jsonl").read_bytes() for number in range(3)]
    assert others == [first, first]
    assert list((model / ".fastmux").glob("*writing*")) == []


CONTRADICTIONS = [
    ({"device": "cuda"}, "runtime is 'onnxruntime' and runs on the CPU: device is 'cuda', expected 'cpu'"),
    (
        {"dtype": "bfloat16"},
        "runtime is 'onnxruntime' and does not run in torch: dtype is 'bfloat16'; precision takes its place",
    ),
    ({"torch_compile": True}, "runtime is 'onnxruntime' and does not run in torch, but torch_compile is given"),
    ({"runtime": "tensorrt"}, "runtime is 'tensorrt', expected one of 'torch', 'onnxruntime'"),
    ({"precision": "int4"}, "precision is 'int4', expected one of 'float32', 'int8'"),
    ({"runtime": None, "precision": "int8"}, "precision is 'int8', which torch does not run; runtime is 'torch'"),
    ({"runtime": "torch", "precision": "int8"}, "precision is 'int8', which torch does not run; runtime is 'torch'"),
    (
        {"runtime": "torch", "precision": "float32", "dtype": "bfloat16"},
        "precision is 'float32' and dtype 'bfloat16'; give one of them",
    ),
]


@pytest.mark.parametrize(("options", "message"), CONTRADICTIONS)
def test_contradictory_options(options, message, tmp_path):
    """Before the model and the rows are looked for: there are none of these names."""
    for call in (
        lambda: fastmux.Labeller("nowhere/at-all", **ONNX | options),
        lambda: fastmux.predict("nowhere/at-all", tmp_path / "no.jsonl", tmp_path / "out.jsonl", **ONNX | options),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_is_not_installed(folder, tmp_path, monkeypatch):
    model = folder("plain")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(Classifier, "of", None)  # not even loaded
    with pytest.raises(ImportError, match=r"onnxruntime is not installed; pip install '.*\[onnx\]' adds what"):
        fastmux.Labeller(model, **ONNX)
    assert not (model / ".fastmux").exists()


def test_what_the_exporter_needs_is_not_installed(folder, monkeypatch):
    model = folder("plain")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript is not installed; pip install '.*\[export\]' adds what"):
        fastmux.Labeller(model, **ONNX)


def test_a_model_that_gives_nan(folder, tokenizer, models, tmp_path):
    model = folder("plain")
    broken = BertForSequenceClassification.from_pretrained(model)
    with torch.no_grad():
        broken.bert.encoder.layer[0].output.dense.weight[3, 5] = float("nan")
    broken.save_pretrained(model)
    with pytest.raises(ValueError, match=r"the model returns NaN or infinity"):
        fastmux.Labeller(model, **ONNX)
    assert [path.name for path in (model / ".fastmux").iterdir()] == [".lock"]
