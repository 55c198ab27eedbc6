"""Exported models answer as the originals do: any number of groups, any length, a short last group."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import BertModel

import fastmux
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime
from fastmux.passes.tokens import Tokens

KINDS = ("plain", "several", "number", "tagger", "rows", "positions", "unbind", "index", "tmux_tagger")


def drawn(lengths, seed=0):
    draw = np.random.default_rng(seed)
    return Tokens.of_rows([draw.integers(5, 45, length).tolist() for length in lengths])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[1], [7], [3, 3], [5, 9, 2], [1, 28, 4, 7, 13], list(range(1, 24))], ids=len)
def test_float32_answers_as_the_original(kind, lengths, models, tokenizer, exported):
    original = Classifier.of(models[kind], tokenizer).engine(Placement())
    ours = OnnxRuntime(exported(kind))
    tokens = drawn(lengths)
    plan = original.plan(tokens.lengths)
    expected = original.run(tokens, plan).logits
    found = Engine(ours, 64).run(tokens, plan).logits
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
    # And in passes of its own plan, which are smaller: of the same groups, therefore the same answers.
    np.testing.assert_allclose(Engine(ours, 64).run(tokens).logits, found, rtol=0, atol=1e-4 * np.abs(found).max())


@pytest.mark.parametrize("kind", ["plain", "rows", "unbind"])
def test_int8_is_near_the_original(kind, models, tokenizer, exported):
    original = Classifier.of(models[kind], tokenizer).engine(Placement())
    tokens = drawn([4, 9, 7, 12] * 15, seed=1)
    expected = original.run(tokens).logits
    found = Engine(OnnxRuntime(exported(kind, "int8")), 1024).run(tokens).logits
    assert np.abs(found - expected).mean() < 0.1 * expected.std()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["plain", "unbind"])
def test_int8_makes_the_matrices_small(kind, exported):
    graph = onnx.load(exported(kind, "int8") / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") >= 10
    wide = [
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == 1 and len(tensor.dims) == 2 and min(tensor.dims) >= 64
    ]
    assert not wide


def test_the_file_runs_in_plain_onnxruntime(models, tokenizer, exported):
    session = onnxruntime.InferenceSession(exported("plain") / "model.onnx")
    given = tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = models["plain"](**given).logits.numpy()
    (found,) = session.run(["logits"], {name: value.numpy() for name, value in given.items()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_card_says_what_it_is(exported):
    card = ModelCard.load(exported("unbind", "int8") / "README.md")
    assert card.data.library_name == "onnxruntime"
    assert (
        "TMuxForSequenceClassification" in card.text
        and "**a row's answer depends on the rows of its group**" in card.text
    )


def test_what_is_told_of_an_export(models, tokenizer, texts, tmp_path):
    found = fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer, texts=texts)
    assert (found.rows, found.same) == (len(texts), 1.0) and found.largest_difference < 1e-3
    assert found.record.made_from["class"] == "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision is 'int4', expected one of 'float32', 'int8'"),
        ({"texts": "one text"}, "texts is 'one text', expected a list of texts"),
        ({"texts": [""]}, "row 1 of texts is empty"),
        ({"texts": []}, "texts is empty"),
        ({"max_length": 99}, "max_length is 99, but the model has room for 32 tokens"),
        ({"tokenizer": None}, "tokenizer is None, expected the tokenizer of the model"),
    ],
)
def test_options_out_of_range(options, message, models, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        fastmux.export(models["plain"], tmp_path / "out", **{"tokenizer": tokenizer} | options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["embeddings.word_embeddings.weight", "encoder.layer.0.intermediate.dense.bias"])
def test_nan_on_the_texts_is_refused_in_int8(where, models, tokenizer, tmp_path):
    """A single NaN among a position's activations is lost when these are quantised: ReduceMax passes over it."""
    model = copy.deepcopy(models["plain"])
    with torch.no_grad():
        damaged = model.bert.get_parameter(where)
        damaged[(tokenizer.convert_tokens_to_ids("w1"), 3) if damaged.dim() > 1 else 3] = float("nan")
    with pytest.raises(ValueError, match="the model returns NaN or infinity"):
        fastmux.export(model, tmp_path / "out", tokenizer=tokenizer, precision="int8", texts=["w2", "w2 w1"])
    assert not list(tmp_path.iterdir())


def test_no_folder_is_written_over(models, tokenizer, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir .* is not empty; give a new folder"):
        fastmux.export(models["plain"], tmp_path, tokenizer=tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_without_labels(models, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="model is a BertModel, expected a class that ends in"):
        fastmux.export(BertModel(models["plain"].config), tmp_path / "out", tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


def test_an_exported_model_is_not_exported_again(exported, tmp_path):
    with pytest.raises(ValueError, match="is exported already; give the one that it was made from"):
        fastmux.export(exported("plain"), tmp_path / "out", precision="int8")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_weights_that_are_nan(precision, models, tokenizer, tmp_path):
    model = type(models["plain"])(models["plain"].config)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[3, 5] = float("nan")
    with pytest.raises(ValueError, match="the model returns NaN or infinity; are its weights damaged"):
        fastmux.export(model, tmp_path / "out", tokenizer=tokenizer, precision=precision)
    assert not list(tmp_path.iterdir())


def test_a_model_that_fails_in_8_bits_alone_is_refused(models, tokenizer, texts, tmp_path, monkeypatch):
    from fastmux.exporting import row_int8

    # What overflows in 8 bits: a scale that is not finite.
    monkeypatch.setattr(row_int8, "_LEVELS", 1e-38)
    with pytest.raises(ValueError, match=f"the exported model fails on {len(texts)} rows: the model returns NaN"):
        fastmux.export(models["plain"], tmp_path / "out", tokenizer=tokenizer, precision="int8", texts=texts)
    assert not list(tmp_path.iterdir())


def test_8_bits_of_a_model_too_narrow_for_them(models, tokenizer, tmp_path):
    config = type(models["plain"].config)(
        **models["plain"].config.to_dict() | {"hidden_size": 32, "intermediate_size": 48}
    )
    with pytest.raises(ValueError, match="no matrix of the model has 64 rows and columns"):
        fastmux.export(type(models["plain"])(config), tmp_path / "out", tokenizer=tokenizer, precision="int8")
    assert not list(tmp_path.iterdir())
