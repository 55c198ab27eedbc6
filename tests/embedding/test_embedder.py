"""`fastmux.Embedder`: texts in memory, beside sentence-transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import fastmux
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.testing import assert_agrees


@pytest.mark.parametrize("name", ["mean", "every", "joined", "pooled"])
def test_encode_is_that_of_sentence_transformers(name, folders, texts):
    embedder = fastmux.Embedder(folders[name])
    long = [*texts[:30], "w1 w2 " * 40]
    theirs = SentenceTransformer(str(folders[name]), device="cpu")
    found = embedder.encode(long)
    assert found.dtype == np.float32
    assert_agrees(torch.tensor(found), torch.tensor(theirs.encode(long)))
    assert embedder.encode([]).shape == (0, found.shape[1])
    shorter = theirs.encode(long[:5], truncate_dim=4)
    shorter = shorter / np.linalg.norm(shorter, axis=1, keepdims=True) if name != "pooled" else shorter
    assert_agrees(torch.tensor(embedder.encode(long[:5], truncate_dim=4)), torch.tensor(shorter))


def test_a_prompt_by_its_name(config, embedders, tokenizer, texts):
    prompts = EmbeddingConfig("mean", prompts={"query": "w1 w2 "})
    embedder = fastmux.Embedder(EmbeddingModel(embedders["mean"].encoder, prompts), tokenizer)
    plain = embedder.encode([f"w1 w2 {text}" for text in texts[:5]])
    assert_agrees(torch.tensor(embedder.encode(texts[:5], prompt_name="query")), torch.tensor(plain))


def test_a_model_in_memory_is_cut_where_it_says(embedders, tokenizer):
    short = replace(embedders["mean"].embedding_config, max_seq_length=8)
    model = EmbeddingModel(embedders["mean"].encoder, short).eval()
    long = ["w1 w2 w3 w4 w5 w6 w7 w8 w9", "w1 w2 w3 w4 w5 w6 w10 w11"]
    first, second = fastmux.Embedder(model, tokenizer).encode(long)
    assert np.array_equal(first, second)
    found = fastmux.embed(model, long, tokenizer=tokenizer, num_workers=0, disable_tqdm=True)
    assert found.report.cut == 2 and found.dataset[0] == found.dataset[1] | {"text": long[0]}


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ("w1", {}, "texts is a str, expected a list of texts"),
        (["w1", ""], {}, "text 2 is empty"),
        (["w1", 3], {}, "text 2 must be text, got .3."),
        (["w1"], {"prompt_name": "none"}, "none"),
        (["w1"], {"truncate_dim": 0}, "truncate_dim is 0, expected an integer from 1 to 32"),
        (["w1"], {"truncate_dim": 33}, "truncate_dim is 33, expected an integer from 1 to 32"),
    ],
)
def test_what_is_wrong_is_named(texts, options, message, embedders, tokenizer):
    with pytest.raises(ValueError, match=message):
        fastmux.Embedder(embedders["mean"], tokenizer).encode(texts, **options)
