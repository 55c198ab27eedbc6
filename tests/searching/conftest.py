"""Tiny models that label or embed, with a tokenizer, and text of their kind; nothing is exported unless a test asks."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel
from word_tokenizer import word_tokenizer

from fastmux.embedding.config import DenseLayer, EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.passes.timer import Rate
from fastmux.searching import measure, run
from fastmux.searching.levers import candidates_for

WORDS = [f"w{i}" for i in range(40)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture(scope="session")
def config(tokenizer):
    # Large weights, so that labels differ from row to row.
    return BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, num_labels=3, **SIZES)


@pytest.fixture
def original(config):
    torch.manual_seed(0)
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def tagger(config):
    torch.manual_seed(0)
    return BertForTokenClassification(config).eval()


@pytest.fixture
def embedder(config):
    """With a prompt that is not pooled, and vectors of which the first numbers are kept."""
    torch.manual_seed(0)
    said = EmbeddingConfig(
        "mean",
        include_prompt=False,
        steps=(DenseLayer(32, 24, activation="Identity"), Normalize()),
        max_seq_length=20,
        prompts={"passage": "w1 w2 "},
        default_prompt_name="passage",
        similarity_fn_name="cosine",
        truncate_dim=16,
    )
    return EmbeddingModel(BertModel(config), said).eval()


@pytest.fixture(scope="session")
def texts():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(600)]


@pytest.fixture
def saved(original, tokenizer, tmp_path):
    original.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    return tmp_path / "original"


@pytest.fixture
def saved_embedder(embedder, tokenizer, tmp_path):
    embedder.save_pretrained(tmp_path / "embedder", tokenizer)
    return tmp_path / "embedder"


@pytest.fixture
def in_torch_alone(monkeypatch):
    """To export a model takes seconds."""
    monkeypatch.setattr(run, "why_not_exported", lambda device, precision: "not in this test")


@pytest.fixture
def known_speeds(monkeypatch):
    """The speed of so small a model is chance: here each is faster than the one before it."""

    def rates(calls, rows, **options):
        return {name: Rate(*[50.0 if name == "forward" else 100.0 + 100 * k] * 3) for k, name in enumerate(calls)}

    monkeypatch.setattr(run, "rates", rates)
    monkeypatch.setattr(measure, "rates", rates)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Whose answers do not depend on the rows beside a row: what the search measures, a test can measure again."""
    few = ("cut-2", "cut-1", "positions-2x1", "pooled-2x3")
    monkeypatch.setattr(
        run, "candidates_for", lambda config, to="label": [c for c in candidates_for(config, to) if c.name in few]
    )
