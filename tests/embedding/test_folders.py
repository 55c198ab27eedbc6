"""A folder of sentence-transformers is read as they read it, and written so that they read the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from fastmux.embedding.config import DenseLayer, EmbeddingConfig, Normalize
from fastmux.embedding.folder import read_embedding_config
from fastmux.embedding.model import EmbeddingModel, load_embedding_model
from fastmux.testing import assert_agrees


def vectors(folder, texts, prompt=""):
    model, tokenizer = load_embedding_model(folder)
    batch = tokenizer([prompt + text for text in texts], padding=True, truncation=True, return_tensors="pt")
    length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        found = model(batch["input_ids"], batch["attention_mask"], prompt_length=length + 1 if prompt else 0)
    return found[:, : model.embedding_config.truncate_dim]


@pytest.mark.parametrize("name", ["mean", "cls", "lasttoken", "every", "joined", "pooled", "tmux"])
def test_vectors_are_those_of_sentence_transformers(folders, texts, name):
    theirs = SentenceTransformer(str(folders[name]), device="cpu")
    some = [*texts[:7], "W7 w8 " * 30]
    prompt = theirs.prompts.get(theirs.default_prompt_name, "") if theirs.default_prompt_name else ""
    # Multiplexed rows share groups, so that their order must be the same: theirs is that of lengths.
    some.sort(key=len, reverse=True)
    expected = theirs.encode(some, convert_to_tensor=True, batch_size=16)
    assert_agrees(vectors(folders[name], some, prompt), expected)
    assert expected.shape == (8, 8 if name in ("every", "joined") else 32)


def test_what_they_write_is_read(folders, tmp_path, texts):
    """Version 6 has other names of classes and of poolings than version 2, whose names this library writes."""
    for name in ("every", "lasttoken"):
        theirs = SentenceTransformer(str(folders[name]), device="cpu")
        theirs.save(str(tmp_path / name))
        assert "sentence_transformers.models." not in (tmp_path / name / "modules.json").read_text()
        ours, again = (read_embedding_config(folder).config for folder in (folders[name], tmp_path / name))
        for field in ("pooling", "include_prompt", "steps", "default_prompt_name", "truncate_dim"):
            assert getattr(again, field) == getattr(ours, field), field
        assert load_embedding_model(tmp_path / name)[1].model_max_length == theirs.max_seq_length
    assert again.prompts == {"query": "", "document": ""}


def test_a_folder_of_an_early_version(folders, tmp_path, texts):
    """The encoder has a folder of its own, another name is on its settings, and dense layers are pickled."""
    old = tmp_path / "old"
    shutil.copytree(folders["every"], old)
    (old / "0_Transformer").mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (old / file).rename(old / "0_Transformer" / file)
    (old / "sentence_bert_config.json").rename(old / "0_Transformer" / "sentence_roberta_config.json")
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    for dense in old.glob("*_Dense/model.safetensors"):
        from safetensors.torch import load_file

        torch.save(load_file(dense), dense.with_name("pytorch_model.bin"))
        dense.unlink()
    assert_agrees(vectors(old, texts[:5], "w4 "), vectors(folders["every"], texts[:5], "w4 "))
    assert load_embedding_model(old)[1].model_max_length == 12


def changed(folder, target, file, **values):
    shutil.copytree(folder, target)
    stored = json.loads((target / file).read_text())
    if isinstance(stored, list):
        stored[values.pop("at")].update(values)
    else:
        stored |= values
    (target / file).write_text(json.dumps(stored))
    return target


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by max and mean, expected one of mean"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pools by weightedmean, expected one of mean"),
        ("2_Dense/config.json", {"activation_function": "my.Own"}, "Dense layer with the activation Own, expected"),
        ("2_Dense/config.json", {"use_residual": True}, "Dense layer with a residual"),
        ("modules.json", {"at": 2, "type": "sentence_transformers.models.LSTM"}, "has a LSTM behind its pooling"),
        ("modules.json", {"at": 0, "type": "sentence_transformers.models.BoW"}, "has a BoW in its modules.json"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "is for the task 'fill-mask', expected"),
        ("config_sentence_transformers.json", {"default_prompt_name": "no"}, "has the default prompt 'no', but the"),
    ],
)
def test_what_is_not_known_is_refused_by_name(folders, tmp_path, file, values, message):
    with pytest.raises(ValueError, match=message):
        load_embedding_model(changed(folders["every"], tmp_path / "changed", file, **values))


def test_an_encoder_alone_needs_a_pooling(folders, tmp_path, texts):
    bare = tmp_path / "bare"
    shutil.copytree(folders["cls"], bare)
    for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (bare / file).unlink()
    with pytest.raises(ValueError, match=r"says no pooling, .*; say with pooling, one of 'mean', 'cls', 'lasttoken'"):
        load_embedding_model(bare)
    with pytest.raises(ValueError, match="pooling is 'max', expected one of 'mean', 'cls', 'lasttoken'"):
        load_embedding_model(bare, pooling="max")
    with pytest.raises(ValueError, match=r"pooling is 'mean', but model .* says 'cls'; leave it out"):
        load_embedding_model(folders["cls"], pooling="mean")
    model, _ = load_embedding_model(bare, pooling="cls")
    assert model.embedding_config == EmbeddingConfig("cls")
    (bare / "modules.json").write_text("[{}")
    with pytest.raises(ValueError, match=r"has a modules.json that is not JSON"):
        load_embedding_model(bare)


def test_a_dense_layer_that_is_damaged_or_does_not_fit_is_refused(folders, config, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(folders["every"], folder)
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="has a dense layer 2_Dense that cannot be loaded"):
        load_embedding_model(folder)
    with pytest.raises(ValueError, match="a dense layer takes 8 numbers, but what is before it gives 32"):
        EmbeddingModel(BertModel(config), EmbeddingConfig(steps=(DenseLayer(8, 4),)))
    with pytest.raises(ValueError, match="dense has other widths than the dense layers"):
        EmbeddingModel(BertModel(config), EmbeddingConfig(steps=(DenseLayer(32, 4),)), [torch.nn.Linear(32, 5)])


def test_an_encoder_that_lacks_weights_is_refused(folders, config, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(folders["mean"], folder)
    BertConfig(**config.to_dict() | {"num_hidden_layers": 4}).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"lacks 16 tensors, e.g. encoder.layer.3"):
        load_embedding_model(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_padding_on_either_side_moves_nothing(embedders, pooling):
    model = embedders[pooling]
    ids = torch.randint(5, 45, (3, 6), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    states = torch.randn(3, 9, 32)
    moved = states.roll(3, 1)
    with torch.no_grad():
        assert_agrees(model(*right), model(ids))
    assert_agrees(model.vectors(states, right[1]), model.vectors(moved, right[1].roll(3, 1)))


def test_the_config_is_frozen_and_says_whether_it_normalizes():
    config = EmbeddingConfig(steps=(DenseLayer(4, 2), Normalize()))
    assert config.normalizes and not EmbeddingConfig().normalizes
    with pytest.raises(AttributeError):
        config.pooling = "cls"
    with pytest.raises(ValueError, match="prompt_name is 'q', but the model has the prompts: none"):
        config.prompt("q")
    with pytest.raises(ValueError, match="activation is 'Own', expected one of Identity"):
        EmbeddingConfig(steps=(DenseLayer(4, 2, activation="Own"),))
