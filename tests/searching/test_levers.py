"""The levers: each makes candidates of an original that can be trained, with the layers that their words say."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, BertModel, DistilBertConfig

from fastmux.distillation.teacher import logits_of
from fastmux.embedding.config import EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.searching.levers import Source, candidates_for

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 45}


@pytest.mark.parametrize("layers", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("to", ["label", "embed"])
def test_every_candidate_can_be_made(to, layers, tokenizer, texts):
    config = BertConfig(num_hidden_layers=layers, **SIZES)
    if to == "embed":
        original = EmbeddingModel(BertModel(config), EmbeddingConfig("mean", steps=(Normalize(),))).eval()
    else:
        original = BertForSequenceClassification(config).eval()
    rows = Dataset.from_dict({"input_ids": tokenizer(texts[:20])["input_ids"]})
    source = Source(original, rows.add_column("length", [len(ids) for ids in rows["input_ids"]]), tokenizer)
    candidates = candidates_for(original.config, to)
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    assert (len(candidates) >= 20) == (layers >= 6)
    assert not [c for c in candidates if to == "embed" and c.name.startswith(("rows", "positions"))]
    for candidate in candidates:
        made = candidate.make(source).eval()
        kept = made.config.backbone_config.num_hidden_layers
        assert kept == layers if "all layers" in candidate.words else f"{kept} " in candidate.words
        assert candidate.multiplexed == (made.config.num_instances > 1)
        assert sum(p.numel() for p in made.parameters()) <= 1.1 * sum(p.numel() for p in original.parameters()) + 4000
        said = logits_of(made(input_ids=torch.ones(8, 6, dtype=torch.long)))
        assert said.shape == (8, 32 if to == "embed" else 2) and torch.isfinite(said).all()


def test_what_has_no_such_layers_has_no_candidates():
    assert candidates_for(DistilBertConfig()) == candidates_for(DistilBertConfig(), "embed") == []
