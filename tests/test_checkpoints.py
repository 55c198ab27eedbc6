"""Saving and loading: bit-equal, by the Auto classes, across tasks; damaged and foreign checkpoints are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from models import BERT, FAMILIES, batch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)

import fastmux
from fastmux.modules import DEMULTIPLEXERS, MULTIPLEXERS
from fastmux.modules.registry import keywords
from fastmux.testing import assert_agrees

SEQUENCE = fastmux.TMuxForSequenceClassification


def assert_same_tensors(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
@pytest.mark.parametrize("mux", list(MULTIPLEXERS))
def test_what_was_saved_is_what_is_loaded(tmp_path, mux, demux, learnable):
    if learnable and "learnable" not in keywords(MULTIPLEXERS[mux]):
        with pytest.raises(ValueError, match=f"has 'learnable'; the options of multiplexer '{mux}' are "):
            SEQUENCE.from_backbone(BERT, 3, multiplexer=mux, multiplexer_options={"learnable": True})
        return
    options = {"multiplexer_options": {"learnable": True}} if learnable else {}
    model = SEQUENCE.from_backbone(BERT, 3, multiplexer=mux, demultiplexer=demux, num_labels=4, **options).eval()
    model.save_pretrained(tmp_path)
    loaded = SEQUENCE.from_pretrained(tmp_path).eval()
    assert_same_tensors(model, loaded)
    assert loaded.config.to_diff_dict() == SEQUENCE.from_pretrained(tmp_path).config.to_diff_dict()
    assert isinstance(loaded.tmux.multiplexer.transforms, torch.nn.Parameter) == learnable
    rows = batch(5)
    with torch.no_grad():
        assert_agrees(loaded(**rows).logits, model(**rows).logits)


@pytest.mark.parametrize(
    ("auto", "cls"),
    [
        (AutoModel, fastmux.TMux),
        (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification),
        (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification),
    ],
)
def test_auto_classes(tmp_path, auto, cls):
    cls.from_backbone(BERT, 3).save_pretrained(tmp_path)
    assert type(auto.from_pretrained(tmp_path)) is cls
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, fastmux.TMuxConfig) and type(config.backbone_config) is type(BERT)
    assert type(auto.from_config(config)) is cls


@pytest.mark.parametrize("tied", [True, False])
def test_a_task_starts_from_a_warm_up(tmp_path, tied):
    warm = fastmux.TMuxForRetrieval.from_backbone(BERT, 3, tie_word_embeddings=tied)
    torch.nn.init.normal_(warm.retrieval.decoder.bias)
    warm.save_pretrained(tmp_path)
    model, info = SEQUENCE.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    assert_same_tensors(model.tmux, warm.tmux)
    assert torch.equal(model.retrieval.decoder.bias, warm.retrieval.decoder.bias)
    assert tied or torch.equal(model.retrieval.decoder.weight, warm.retrieval.decoder.weight)
    assert sorted(info["missing_keys"]) == ["classifier.bias", "classifier.weight"] and model.num_labels == 5
    assert_same_tensors(fastmux.TMux.from_pretrained(tmp_path, add_pooling_layer=False), warm.tmux)
    whole, info = fastmux.TMux.from_pretrained(tmp_path, output_loading_info=True)  # with a pooler, new as in BERT
    assert sorted(info["missing_keys"]) == ["backbone.pooler.dense.bias", "backbone.pooler.dense.weight"]
    rows = batch(3)
    with torch.no_grad():
        states = whole.eval()(**rows).last_hidden_state
        assert_agrees(states, warm.eval().tmux(**rows).last_hidden_state)


def test_half_precision_and_attention_are_chosen_at_loading(tmp_path):
    SEQUENCE.from_backbone(BERT, 3).save_pretrained(tmp_path)
    model = SEQUENCE.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16 and model.tmux.backbone.config._attn_implementation == "eager"
    assert model(**batch(4)).logits.dtype == torch.bfloat16


def test_what_is_drawn_at_loading_is_drawn_as_the_encoder_draws_it(tmp_path):
    """ModernBERT cuts its normal distribution, and its second layers' is narrower."""
    wide, narrow = copy.deepcopy(FAMILIES["modernbert"]), FAMILIES["modernbert"]
    wide.intermediate_size = 96
    SEQUENCE.from_backbone(narrow, 3).save_pretrained(tmp_path)
    config = fastmux.TMuxConfig(backbone_config=wide, num_instances=3)
    model = SEQUENCE.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    for layer in model.tmux.backbone.layers:
        assert layer.mlp.Wi.weight.abs().max() <= 3 * 0.3
        assert layer.mlp.Wo.weight.abs().max() <= 3 * 0.3 / 2


def test_nothing_half_written_is_left_behind(tmp_path, monkeypatch):
    model, target = SEQUENCE.from_backbone(BERT, 3), tmp_path / "model"
    model.save_pretrained(target)
    before = {f.name: f.read_bytes() for f in target.iterdir()}
    other = SEQUENCE.from_backbone(BERT, 3)

    def dies(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(fastmux.TMuxConfig, "save_pretrained", dies)
    with pytest.raises(OSError, match="disk full"):
        other.save_pretrained(target)
    assert {f.name: f.read_bytes() for f in target.iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_saving_keeps_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    SEQUENCE.from_backbone(BERT, 3).save_pretrained(tmp_path)
    assert {"notes.txt", "config.json", "model.safetensors"} <= {f.name for f in tmp_path.iterdir()}


def logits(model, rows) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**rows).logits


SHARDS = {"max_shard_size": "10KB"}


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize(("first", "second"), [({}, SHARDS), (SHARDS, {}), (SHARDS, {"max_shard_size": "20KB"})])
def test_what_was_saved_last_is_what_is_loaded(tmp_path, first, second, variant):
    (tmp_path / "notes.safetensors").write_text("mine")
    rows, former, model = batch(4), SEQUENCE.from_backbone(BERT, 3), SEQUENCE.from_backbone(BERT, 3)
    SEQUENCE.from_backbone(BERT, 3).save_pretrained(tmp_path, variant="other", **SHARDS)
    other = {f.name: f.read_bytes() for f in tmp_path.glob("*other*")}
    former.save_pretrained(tmp_path, variant=variant, **first)
    model.save_pretrained(tmp_path, variant=variant, **second)
    model.save_pretrained(tmp_path / "alone", variant=variant, **second)
    names = {f.name for f in (tmp_path / "alone").iterdir()} | {"alone", "notes.safetensors"} | other.keys()
    assert {f.name for f in tmp_path.iterdir()} == names
    assert {f.name: f.read_bytes() for f in tmp_path.glob("*other*")} == other
    loaded = SEQUENCE.from_pretrained(tmp_path, variant=variant)
    assert_agrees(logits(loaded, rows), logits(model, rows))


def test_every_argument_of_saving(tmp_path, monkeypatch):
    model, target = SEQUENCE.from_backbone(BERT, 3), tmp_path / "my-model"
    model.save_pretrained(target, is_main_process=False)
    assert list(target.iterdir()) == []  # made, as Hugging Face's does, and nothing in it
    zeros = {k: torch.zeros_like(t) for k, t in model.state_dict().items()}
    names = set(zeros)
    model.save_pretrained(target, state_dict=zeros, save_original_format=False)
    assert set(zeros) == names
    assert not any(t.any() for t in SEQUENCE.from_pretrained(target).state_dict().values())
    monkeypatch.chdir(target)
    (target / "README.md").unlink()
    model.save_pretrained(".")
    assert 'from_pretrained("my-model")' in (target / "README.md").read_text()
    rows = batch(3)
    assert_agrees(logits(SEQUENCE.from_pretrained("."), rows), logits(model, rows))


def test_pushing_sends_what_was_saved(tmp_path, monkeypatch):
    import transformers.modeling_utils as hub
    from huggingface_hub import ModelCard

    sent = {}

    class Api:
        def create_repo(self, repo_id, **options):
            return type("Repository", (), {"repo_id": f"me/{repo_id}"})

    def upload(self, folder, repository, timestamps, token=None, **options):
        sent.update(repository=repository, token=token, files={f.name for f in Path(folder).iterdir()})

    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: ModelCard("---\n---\ntheirs"))
    monkeypatch.setattr(fastmux.TMux, "_upload_modified_files", upload)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("mine")
    fastmux.TMux(BERT, 3).save_pretrained(tmp_path / "model", push_to_hub=True, token="secret")
    assert sent["repository"] == "me/model" and sent["token"] == "secret"
    assert {"config.json", "model.safetensors", "README.md"} <= sent["files"]
    assert (tmp_path / "model" / "README.md").read_text() == "mine"


class TestRefused:
    @pytest.fixture
    def saved(self, tmp_path):
        SEQUENCE.from_backbone(BERT, 3, num_labels=4).save_pretrained(tmp_path)
        return tmp_path

    def test_of_another_model(self, tmp_path):
        BertModel(BERT).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"model of type 'bert', expected 'tmux'.*from_backbone"):
            SEQUENCE.from_pretrained(tmp_path)

    def test_with_another_number_of_instances(self, saved):
        config = json.loads((saved / "config.json").read_text())
        config["num_instances"] = 4
        (saved / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"do not fit their config: .* has shape \(\d.*expected \(\d"):
            SEQUENCE.from_pretrained(saved)
        _, info = SEQUENCE.from_pretrained(saved, ignore_mismatched_sizes=True, output_loading_info=True)
        assert info["mismatched_keys"]

    def test_other_errors_stay_what_they_are(self, saved, monkeypatch):
        def full(*args, **kwargs):
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(fastmux.TMux, "__init__", full)
        with pytest.raises(torch.OutOfMemoryError):
            SEQUENCE.from_pretrained(saved)

    def test_without_tensors_of_the_encoder(self, saved):
        from safetensors.torch import load_file, save_file

        tensors = load_file(saved / "model.safetensors")
        dropped = {k: t for k, t in tensors.items() if "layer.1." not in k}
        save_file(dropped, saved / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks \d+ tensors of the model, e.g. .*layer\.1\."):
            SEQUENCE.from_pretrained(saved)

    def test_a_file_where_a_folder_goes(self, tmp_path):
        (tmp_path / "model").write_text("")
        with pytest.raises(ValueError, match="which is a file; expected a folder"):
            SEQUENCE.from_backbone(BERT, 3).save_pretrained(tmp_path / "model")

    def test_options_beside_a_config(self):
        config = fastmux.TMuxConfig(backbone_config=BERT, num_instances=3)
        with pytest.raises(ValueError, match="num_instances, multiplexer given beside a TMuxConfig"):
            fastmux.TMux(config, 4, multiplexer="orthogonal")
