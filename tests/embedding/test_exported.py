"""Vectors in ONNX Runtime: those of torch, from folders and by ``--runtime``."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from thoroughness import on_request
from transformers import BertConfig, BertModel

import fastmux
from fastmux.embedding.config import EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.testing import assert_agrees

OPTIONS = {"num_workers": 0, "disable_tqdm": True}


def vectors(model, texts, **options):
    return torch.tensor(fastmux.embed(model, texts, **OPTIONS, **options).dataset["embedding"][:])


@pytest.fixture
def own(folders, tmp_path):
    """A model's folder in which no export is kept."""

    def copied(name):
        return shutil.copytree(folders[name], tmp_path / name)

    return copied


def test_an_exported_folder_gives_the_same_vectors(config, tokenizer, texts, tmp_path):
    """Of one layer, as exporting takes a second for each."""
    small = BertModel(BertConfig(**config.to_dict() | {"num_hidden_layers": 1}))
    model = EmbeddingModel(small, EmbeddingConfig("mean", steps=(Normalize(),))).eval()
    folder = tmp_path / "exported"
    found = fastmux.export(model, folder, tokenizer=tokenizer)
    assert found.same is None and found.largest_difference < 1e-3
    assert_agrees(vectors(folder, texts), vectors(model, texts, tokenizer=tokenizer))
    assert 'fastmux.embed("exported", ["a text"])' in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="it embeds, and has no labels"):
        fastmux.Labeller(folder)
    with pytest.raises(ValueError, match="pooling is 'cls', but the model was exported with 'mean'"):
        vectors(folder, texts, pooling="cls")


@on_request
def test_the_runtime_option_exports_once_and_keeps_prompts(own, folders, texts):
    """This model leaves the prompt out of its pooling, so that another prompt takes another export."""
    folder = own("every")
    for prompt in ({}, {"prompt_name": "query"}):
        expected = vectors(folders["every"], texts[:20], **prompt)
        assert_agrees(vectors(folder, texts[:20], runtime="onnxruntime", **prompt), expected)
    kept = [path.name for path in (folder / ".fastmux").iterdir() if path.is_dir()]
    assert len(kept) == 2
    again = vectors(folder, texts[:20], runtime="onnxruntime")
    assert len([path for path in (folder / ".fastmux").iterdir() if path.is_dir()]) == 2
    assert again.shape == (20, 8)
    inside = next(path for path in (folder / ".fastmux").iterdir() if path.is_dir())
    with pytest.raises(ValueError, match="leaves its prompt out of the pooling, and was exported for the prompt"):
        vectors(inside, texts, prompt="another ")


def test_ctranslate2_is_refused_with_its_reason(folders, texts):
    with pytest.raises(ValueError, match="runtime is 'ctranslate2', which runs models that label, not those that emb"):
        vectors(folders["mean"], texts, runtime="ctranslate2")


@on_request
def test_a_dense_layer_that_changes_changes_the_export(own, texts):
    from safetensors.torch import load_file, save_file

    folder = own("every")
    before = vectors(folder, texts[:5], runtime="onnxruntime")
    file = folder / "2_Dense" / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(file).items()}, file)
    after = vectors(folder, texts[:5], runtime="onnxruntime")
    assert np.abs((before - after).numpy()).max() > 1e-2
    assert_agrees(after, vectors(folder, texts[:5]))
