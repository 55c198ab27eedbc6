"""The benchmark of text to vectors: it runs, and says what it measured."""

from __future__ import annotations

import json

from transformers import BertConfig, BertModel
from word_tokenizer import word_tokenizer

from bench import embed
from fastmux.embedding.config import EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel


def test_all_ways_are_measured(tmp_path, capsys):
    tokenizer = word_tokenizer(["fine", "film", "dull"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=8, max_position_embeddings=16, **sizes))
    EmbeddingModel(model, EmbeddingConfig(steps=(Normalize(),))).save_pretrained(tmp_path / "model", tokenizer)
    for name, file in embed.TEXTS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file.removesuffix(".gz")).write_text(
            "sentence1\tsentence2\tlabel\nfine film\tdull film\t1\n"
        )
    output = tmp_path / "out.json"
    where = ["--model", str(tmp_path / "model"), "--data_dir", str(tmp_path), "--output", str(output)]
    rows = embed.main([*where, "--repeats", "1", "--batch_sizes", "2"])
    assert [(row["data"], row["way"], row["rows"]) for row in rows] == [
        (name, way, 2) for name in embed.TEXTS for way in ("embed", "model only", "encode")
    ]
    assert all(row["rows_per_second"] > 0 for row in rows) and rows[0]["cosine"] > 0.9999
    assert json.loads(output.read_text())["embedding"] == json.loads(json.dumps(rows))
    assert "x encode" in capsys.readouterr().out
