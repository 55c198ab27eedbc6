"""Small models for labels, and the joined ones that are made of them."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

import fastmux

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
HEADS = {
    "sequence": (AutoModelForSequenceClassification, "JoinedForSequenceClassification"),
    "token": (AutoModelForTokenClassification, "JoinedForTokenClassification"),
}


def plain(family: str = "Bert", kind: str = "sequence", layers: int = 5, **options):
    torch.manual_seed(0)
    sizes = {**SIZES, "embedding_size": 24} if family == "Electra" else SIZES
    config = getattr(transformers, f"{family}Config")(num_hidden_layers=layers, num_labels=3, **sizes, **options)
    model = (AutoModel if kind == "none" else HEADS[kind][0]).from_config(config).eval()
    with torch.no_grad():  # biases and LayerNorms of a new model are zeros and ones
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def joined(model, num_instances: int, **options):
    names = [name for _, name in HEADS.values() if type(model).__name__.endswith(name.removeprefix("Joined"))]
    return getattr(fastmux, names[0] if names else "JoinedModel").from_backbone(model, num_instances, **options).eval()
