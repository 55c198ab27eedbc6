"""A file of rows, and a call that labels it."""

from __future__ import annotations

import json
from pathlib import Path

import classifiers
import pytest

import fastmux

config, tokenizer, models = classifiers.config, classifiers.tokenizer, classifiers.models
folders, texts = classifiers.folders, classifiers.texts


@pytest.fixture
def rows_file(texts, tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture
def label(tokenizer):
    """`fastmux.predict` in a thread, with shards of 16 rows."""

    def run(model, dataset, output=None, **options):
        options = {"num_workers": 0, "rows_per_shard": 16, "disable_tqdm": True} | options
        if not isinstance(model, (str, Path)):
            options.setdefault("tokenizer", tokenizer)
        return fastmux.predict(model, dataset, output, **options)

    return run
