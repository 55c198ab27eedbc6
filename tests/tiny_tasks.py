"""A pretrained encoder of four layers, and files of tasks whose label is whether the word w0 is there."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from word_tokenizer import word_tokenizer

WORDS = [f"w{i}" for i in range(30)]


def write_tasks(folder: Path) -> Path:
    """Writes ``encoder``, ``sst2`` and ``conll2003`` to a folder, and returns it."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    draw = random.Random(0)
    rows = [[draw.choice(WORDS[:3] + WORDS) for _ in range(draw.randint(2, 9))] for _ in range(96)]
    for task in ("sst2", "conll2003"):
        (folder / task).mkdir()
    for name, part in (("train", rows[:64]), ("dev", rows[64:])):
        lines = [f"{' '.join(row)}\t{int('w0' in row)}" for row in part]
        (folder / "sst2" / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
    for name, part in (("train", rows[:64]), ("valid", rows[64:80]), ("test", rows[80:])):
        tagged = ["\n".join(f"{w} {'B-PER' if w == 'w0' else 'O'}" for w in row) for row in part]
        (folder / "conll2003" / f"{name}.txt").write_text("\n\n".join(tagged) + "\n")
    return folder
