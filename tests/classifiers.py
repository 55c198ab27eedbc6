"""Tiny classifiers, in folders with a tokenizer, and text of their kind."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification
from word_tokenizer import word_tokenizer

import fastmux

WORDS = [f"w{i}" for i in range(40)]
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture(scope="session")
def config(tokenizer):
    # Large weights, so that labels differ from row to row.
    return BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, initializer_range=0.5, num_labels=3, **_SIZES
    )


@pytest.fixture(scope="session")
def models(config):
    """By name: plain, tmux (N = 4, no prefix), index (N = 3), joined (N = 2 rows), tagger, tmux_tagger."""
    torch.manual_seed(0)
    plain, tagger = BertForSequenceClassification(config), BertForTokenClassification(config)
    labels = {"num_labels": 3, "demultiplexer": "unbind"}
    tmux, index = fastmux.TMuxForSequenceClassification, {"demultiplexer": "index"}
    wide = BertConfig(**config.to_dict() | {"num_hidden_layers": 3})
    found = {
        "plain": plain,
        "tmux": tmux.from_backbone(config, 4, **labels),
        "index": tmux.from_backbone(config, 3, **labels | index),
        "joined": fastmux.JoinedForSequenceClassification.from_backbone(
            BertForSequenceClassification(wide), 2, join="rows"
        ),
        "tagger": tagger,
        "tmux_tagger": fastmux.TMuxForTokenClassification.from_backbone(config, 4, **labels),
    }
    return {name: model.eval() for name, model in found.items()}


@pytest.fixture(scope="session")
def folders(models, tokenizer, tmp_path_factory):
    """The models, stored."""
    base = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(base / name)
        tokenizer.save_pretrained(base / name)
    return {name: base / name for name in models}


@pytest.fixture(scope="session")
def texts():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(60)]
