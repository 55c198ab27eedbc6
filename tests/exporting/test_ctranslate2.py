"""CTranslate2 runs plain encoders: as the originals answer, without torch, and what it does not know is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys

import ctranslate2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

import fastmux
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.ctranslate2 import CTranslate2Runtime
from fastmux.passes.tokens import Tokens

SIZES = {"vocab_size": 45, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
SIZES |= {"intermediate_size": 128, "max_position_embeddings": 34, "initializer_range": 0.2, "pad_token_id": 0}
#: Encoders that fixtures of other tests do not have: positions from an offset, heads of two layers.
OTHERS = {
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES)),
    "xlm-roberta tagger": lambda: XLMRobertaForTokenClassification(XLMRobertaConfig(**SIZES)),
    "electra tagger": lambda: ElectraForTokenClassification(ElectraConfig(**SIZES, embedding_size=64)),
    "another activation": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, hidden_act="relu")),
}
OPTIONS = {"runtime": "ctranslate2"}


def drawn(types):
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 45, length).tolist() for length in (1, 28, 4, 7, 13, 9, 9, 2)]
    return Tokens.of_rows(ids, [draw.integers(0, 2, len(row)).tolist() for row in ids] if types else None)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("kind", ["plain", "several", "number", "tagger", *OTHERS])
def test_float32_answers_as_the_original(kind, types, models, tokenizer, tmp_path):
    model = models[kind] if kind in models else OTHERS[kind]().eval()
    fastmux.export(model, tmp_path / "out", tokenizer=tokenizer, **OPTIONS)
    classifier = Classifier.of(model, tokenizer)
    tokens = drawn(types and classifier.takes_types())
    expected = classifier.engine(Placement()).run(tokens).logits
    found = Engine(CTranslate2Runtime(tmp_path / "out"), 64).run(tokens).logits
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_int8_is_near_and_small(models, tokenizer, exported):
    tokens = drawn(False)
    expected = Classifier.of(models["plain"], tokenizer).engine(Placement()).run(tokens).logits
    int8, float32 = (exported("plain", precision, "ctranslate2") for precision in ("int8", "float32"))
    found = Engine(CTranslate2Runtime(int8), 1024).run(tokens).logits
    assert 0 < np.abs(found - expected).mean() < 0.1 * expected.std()
    sizes = [(folder / "ctranslate2" / "model.bin").stat().st_size for folder in (int8, float32)]
    assert sizes[0] < 0.4 * sizes[1]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("runtime", ["ctranslate2", "onnxruntime"])
def test_an_export_leaves_the_model_as_it_is(runtime, precision, models, tokenizer, tmp_path):
    before = {name: tensor.clone() for name, tensor in models["plain"].state_dict().items()}
    fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer, runtime=runtime, precision=precision)
    assert all(torch.equal(tensor, before[name]) for name, tensor in models["plain"].state_dict().items())


def test_a_model_is_converted_once_and_needs_no_torch_then(models, tokenizer, texts, tmp_path):
    models["plain"].save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    first = fastmux.Labeller(tmp_path / "model", **OPTIONS, precision="int8")(texts[:2])
    code = (
        "import sys, fastmux\n"
        "print(fastmux.Labeller(sys.argv[1], runtime='ctranslate2', precision='int8')(sys.argv[2:]))\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'onnxruntime') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), *texts[:2]]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    answers, modules = ended.stdout.splitlines()
    assert answers == str(first) and modules == ("[]" if _lazy() else modules)


def _lazy() -> bool:
    """Whether this ctranslate2 imports torch only for what converts."""
    code = "import sys, ctranslate2; print('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rows", "runtime is 'ctranslate2', which runs no JoinedForSequenceClassification; expected a plain encoder"),
        ("unbind", "runtime is 'ctranslate2', which runs no TMuxForSequenceClassification; expected a plain encoder"),
        ("distilbert", "runtime is 'ctranslate2', which runs no DistilBertForSequenceClassification; expected a plain"),
        ("electra", "runtime is 'ctranslate2', which does not know the head of a ElectraForSequenceClassification"),
        ("narrow electra", "which runs no ELECTRA whose embeddings have a width of their own"),
        ("tanh", "which runs no encoder with hidden_act 'tanh' and absolute positions; expected gelu"),
        ("hooks", "which runs no model with hooks, adapters or quantised tensors"),
    ],
)
def test_what_it_does_not_know(kind, message, models, tokenizer, tmp_path):
    distilbert = DistilBertConfig(vocab_size=45, dim=64, n_layers=1, n_heads=2, hidden_dim=64)
    makers = {
        "distilbert": lambda: DistilBertForSequenceClassification(distilbert),
        "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SIZES, embedding_size=64)),
        "narrow electra": lambda: ElectraForTokenClassification(ElectraConfig(**SIZES, embedding_size=32)),
        "tanh": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, hidden_act="tanh")),
        "hooks": OTHERS["roberta"],
    }
    model = (models[kind] if kind in models else makers[kind]()).eval()
    if kind == "hooks":
        model.roberta.encoder.layer[0].register_forward_hook(lambda module, given, output: output)
    with pytest.raises(ValueError, match=message) as raised:
        fastmux.export(model, tmp_path / "out", tokenizer=tokenizer, **OPTIONS)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_multiplexed_model_is_refused_before_a_row_is_read(models, tokenizer, tmp_path):
    models["unbind"].save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.txt").write_text("w1\n")
    command = [sys.executable, "-m", "fastmux", "predict", "model", "rows.txt", "--output", "out.jsonl"]
    ended = subprocess.run([*command, "--runtime", "ctranslate2"], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "model cannot run in ctranslate2: --runtime is 'ctranslate2', which runs no TMuxFor" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.txt"]


def test_without_the_package(exported, models, tokenizer, tmp_path, monkeypatch):
    folder = exported("plain", "float32", "ctranslate2")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    for call in (
        lambda: fastmux.Labeller(folder),
        lambda: fastmux.Labeller("nowhere/at-all", **OPTIONS),
        lambda: fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer, **OPTIONS),
    ):
        with pytest.raises(ImportError, match=r"ctranslate2 is not installed; pip install '.*\[ctranslate2\]' adds"):
            call()


def test_a_processor_without_the_precision(exported, monkeypatch):
    folder = exported("plain", "int8", "ctranslate2")
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: {"float32"})
    for call in (lambda: fastmux.Labeller(folder), lambda: fastmux.Labeller("no", precision="int8", **OPTIONS)):
        with pytest.raises(ValueError, match="precision is 'int8', which CTranslate2 does not run on this processor"):
            call()


@pytest.mark.parametrize("file", ["ctranslate2/model.bin", "ctranslate2/vocabulary.json", "head.safetensors"])
def test_a_damaged_folder(file, exported, tmp_path):
    folder = shutil.copytree(exported("plain", "float32", "ctranslate2"), tmp_path / "model")
    if file.endswith("safetensors"):
        save_file({name: value + 1 for name, value in load_file(folder / file).items()}, folder / file)
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"cannot be loaded: {file} is not as it was exported"):
        fastmux.Labeller(folder)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"cannot be loaded: {file}, which runtime.json names, is not there"):
        fastmux.Labeller(folder)
