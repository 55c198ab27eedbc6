"""Tiny models that embed, in folders of sentence-transformers, and text of their kind."""

from __future__ import annotations

import classifiers
import pytest
import torch
from transformers import BertConfig, BertModel

import fastmux
from fastmux.embedding.config import DenseLayer, EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel

tokenizer, texts = classifiers.tokenizer, classifiers.texts


@pytest.fixture(scope="session")
def config(tokenizer):
    return BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        initializer_range=0.3,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
    )


@pytest.fixture(scope="session")
def embedders(config):
    """By name: each pooling, one with everything, and the multiplexed ones."""
    torch.manual_seed(0)
    bert = BertModel(config).eval()
    every = EmbeddingConfig(
        "mean",
        include_prompt=False,
        steps=(DenseLayer(32, 24), Normalize(), DenseLayer(24, 16, bias=False, activation="Identity"), Normalize()),
        max_seq_length=12,
        do_lower_case=True,
        prompts={"query": "w1 w2 w3", "passage": "w4 "},
        default_prompt_name="passage",
        similarity_fn_name="dot",
        truncate_dim=8,
    )
    normal = (Normalize(),)
    found = {
        "mean": EmbeddingModel(bert, EmbeddingConfig("mean", steps=normal)),
        "cls": EmbeddingModel(bert, EmbeddingConfig("cls")),
        "lasttoken": EmbeddingModel(bert, EmbeddingConfig("lasttoken", steps=normal)),
        "every": EmbeddingModel(bert, every),
        "joined": EmbeddingModel(fastmux.JoinedModel.from_backbone(bert, 2, row_layers=1), every),
        "pooled": EmbeddingModel(
            fastmux.JoinedModel.from_backbone(bert, 2, join="pooled", last_layers=0), EmbeddingConfig("mean")
        ),
        "tmux": EmbeddingModel(fastmux.TMux(config, 4, demultiplexer="unbind"), EmbeddingConfig("mean", steps=normal)),
    }
    return {name: model.eval() for name, model in found.items()}


@pytest.fixture(scope="session")
def folders(embedders, tokenizer, tmp_path_factory):
    """The models, stored."""
    base = tmp_path_factory.mktemp("embedders")
    for name, model in embedders.items():
        model.save_pretrained(base / name, tokenizer)
    return {name: base / name for name in embedders}
