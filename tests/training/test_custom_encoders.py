"""Encoders of training/custom_encoders: what they compute, that folders are enough to load them, and a run with one."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

import fastmux
from fastmux.testing import assert_agrees
from fastmux.training.arguments import parse
from fastmux.training.custom_encoders.lstm_experts import ExpertTagger, LstmExpertsConfig
from fastmux.training.models import config_path
from fastmux.training.train import main

SIZES = {"vocab_size": 40, "pad_token_id": 0, "embedding_size": 12, "hidden_size": 12, "lstm_size": 5}


@pytest.fixture
def tagger():
    torch.manual_seed(0)
    config = LstmExpertsConfig(**SIZES, num_experts=3, num_labels=4)
    return AutoModelForTokenClassification.from_config(config).eval()


def test_experts_are_summed_as_the_gate_says():
    torch.manual_seed(0)
    module = ExpertTagger(LstmExpertsConfig(**SIZES, num_experts=3)).double()
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    states = module.lstm(x)[0]
    expected = x.clone()
    for expert in range(3):
        rows = slice(12 * expert, 12 * (expert + 1))
        said = states @ module.experts.weight[rows].T + module.experts.bias[rows]
        expected += module.gate(states).softmax(-1)[..., expert : expert + 1] * said
    assert_agrees(module(x), expected)
    assert_agrees(module(x, torch.ones(2, 6)), expected)


def test_without_experts_there_is_one_map():
    torch.manual_seed(0)
    module = ExpertTagger(LstmExpertsConfig(**SIZES, num_experts=0))
    x = torch.randn(2, 6, 12)
    assert_agrees(module(x), x + module.experts(module.lstm(x)[0]))


@pytest.mark.parametrize("multiplexed", [False, True])
def test_padding_changes_no_word(tagger, multiplexed):
    if multiplexed:
        tagger = fastmux.TMuxForTokenClassification.from_backbone(
            tagger.encoder, 2, demultiplexer="unbind", num_labels=4
        )
        tagger.eval()
    ids = torch.randint(1, 40, (4, 5))
    mask = torch.ones_like(ids)
    padded = [torch.nn.functional.pad(t, (0, 3)) for t in (ids, mask)]
    assert_agrees(tagger(padded[0], padded[1]).logits[:, :5], tagger(ids, mask).logits)


def test_a_folder_is_enough(tagger, tmp_path):
    ids = torch.randint(1, 40, (4, 5))
    tagger.save_pretrained(tmp_path / "plain")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "plain").eval()
    assert_agrees(again(ids).logits, tagger(ids).logits)
    encoder = AutoModel.from_pretrained(tmp_path / "plain")
    model = fastmux.TMuxForTokenClassification.from_backbone(encoder, 2, demultiplexer="unbind", num_labels=4).eval()
    model.save_pretrained(tmp_path / "mux")
    again = fastmux.TMuxForTokenClassification.from_pretrained(tmp_path / "mux").eval()
    assert_agrees(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 10}, "embedding_size is 12, expected hidden_size=10"),
        ({"lstm_size": 0}, "lstm_size is 0, expected at least 1"),
        ({"num_experts": -1}, "num_experts is -1, expected at least 0"),
    ],
)
def test_wrong_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LstmExpertsConfig(**{**SIZES, **change})


def test_the_named_config_is_the_reports():
    config = AutoConfig.from_pretrained(config_path("lstm_experts"))
    assert (config.embedding_size, config.lstm_size, config.num_experts) == (150, 64, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config_name", "nowhere/to-be-found"], "--config_name 'nowhere/to-be-found' cannot be loaded"),
        (["--config_name", "lstm_experts", "--encoder", "bert"], "--config_name and --encoder exclude each other"),
        (["--config_name", "lstm_experts", "--variants", "shallow"], "shallow is a BERT of the recipe's sizes"),
    ],
)
def test_what_does_not_fit_is_said_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(["--task", "conll2003", *arguments])


def test_an_encoder_goes_through_every_stage(tmp_path):
    rows = [f"word{i} {'B-ORG' if i % 3 else 'O'}" for i in range(40)]
    text = "\n\n".join("\n".join(rows[i : i + 5]) for i in range(0, 40, 5)) + "\n"
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text(text)
    (tmp_path / "own.json").write_text(
        '{"model_type": "lstm_experts", "embedding_size": 12, "hidden_size": 12, "lstm_size": 5, "num_experts": 2}'
    )
    sizes = "--max_length 16 --vocab_size 300 --task_rows 4 --retrieval_rows 4 --max_steps 2 --groupings 1"
    how = "--throughput_seconds 0.1 --use_cpu --disable_tqdm true --variants plain unbind"
    where = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    names = ["--task", "conll2003", "--recipe", "conll2003_lstm", "--config_name", str(tmp_path / "own.json")]
    report = main([*names, *where, *sizes.split(), *how.split()])
    assert list(report.variants) == ["plain", "unbind"]
    for found in report.variants.values():
        assert {"f1", "weighted_f1", "accuracy"} <= set(found.scores["test"])
    config = AutoConfig.from_pretrained(tmp_path / "run" / "unbind" / "task" / "model").backbone_config
    assert (config.model_type, config.num_experts, config.dropout) == ("lstm_experts", 2, 0.3)
