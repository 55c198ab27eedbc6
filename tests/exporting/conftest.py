"""Tiny classifiers of every kind, exported once each."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import classifiers
import pytest
import torch
from filelock import FileLock
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification
from word_tokenizer import word_tokenizer

import fastmux

#: Matrices are wide enough to be quantised.
_SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
texts = classifiers.texts


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer(classifiers.WORDS)


@pytest.fixture(scope="session")
def models(tokenizer):
    """By name; rows and positions are joined models, unbind and index T-MUXes of 4 and 3 rows."""
    torch.manual_seed(0)

    def config(**options):
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "initializer_range": 0.2} | _SIZES
        return BertConfig(**sizes | {"num_labels": 3} | options)

    joined, tmux = fastmux.JoinedForSequenceClassification.from_backbone, fastmux.TMuxForSequenceClassification
    few = {"num_hidden_layers": 2}
    found = {
        "plain": BertForSequenceClassification(config(**few)),
        "several": BertForSequenceClassification(config(problem_type="multi_label_classification", **few)),
        "number": BertForSequenceClassification(config(num_labels=1, **few)),
        "tagger": BertForTokenClassification(config(**few)),
        "rows": joined(BertForSequenceClassification(config()), 2, join="rows"),
        "positions": joined(BertForSequenceClassification(config()), 2, join="positions"),
        "unbind": tmux.from_backbone(config(**few), 4, num_labels=3, demultiplexer="unbind"),
        "index": tmux.from_backbone(config(**few), 3, num_labels=3, demultiplexer="index"),
        "tmux_tagger": fastmux.TMuxForTokenClassification.from_backbone(
            config(**few), 4, num_labels=3, demultiplexer="unbind"
        ),
    }
    return {name: model.eval() for name, model in found.items()}


@pytest.fixture
def folder(models, tokenizer, tmp_path):
    """``folder("plain")`` is a Hugging Face folder of a model, of this test alone."""

    def stored(kind: str) -> Path:
        models[kind].save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return stored


@pytest.fixture(scope="session")
def exported(models, tokenizer, texts, tmp_path_factory):
    """``exported("rows", "int8")`` is the folder of an exported model."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # all workers' models have the same weights: one of them exports
        base = base.parent

    @functools.cache
    def written(name: str, precision: str, runtime: str) -> Path:
        path = base / f"exported-{name}-{precision}-{runtime}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                fastmux.export(
                    models[name], path, tokenizer=tokenizer, runtime=runtime, precision=precision, texts=texts
                )
        return path

    return lambda name, precision="float32", runtime="onnxruntime": written(name, precision, runtime)
