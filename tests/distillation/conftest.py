"""A tiny trained-looking model, its tokenizer and text of its kind."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from word_tokenizer import word_tokenizer

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture
def tiny_config(tokenizer):
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.3,  # so that states and labels differ from row to row, as a trained model's do
        num_labels=3,
    )


@pytest.fixture
def original(tiny_config):
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config).eval()


@pytest.fixture(scope="session")
def texts():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(160)]
