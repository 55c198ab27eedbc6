"""What tests of the benchmarks share: their scripts at tiny sizes, and a harness that compiles nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from word_tokenizer import word_tokenizer

from bench import harness

ROOT = Path(__file__).resolve().parents[2]
WORDS = [f"w{i}" for i in range(40)]
TINY = ["--num_hidden_layers", "1", "--hidden_size", "16", "--num_attention_heads", "2", "--intermediate_size", "32"]


@pytest.fixture
def run_script() -> Callable[..., str]:
    """Runs a script of bench/ on a tiny encoder; what it printed."""

    def run(name: str, *options: str) -> str:
        command = [sys.executable, str(ROOT / "bench" / name), "--vocab_size", "50", "--disable_tqdm", *TINY, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture
def eager(monkeypatch):
    """Without what is compiled: that takes seconds."""
    monkeypatch.setattr(harness, "REFERENCES", ("reference",))
    monkeypatch.setattr(harness, "ours", lambda: ("torch",))
    monkeypatch.setattr(harness, "copy_bandwidth", lambda clock: 1e9)


@pytest.fixture
def refusal(capsys) -> Callable[..., str]:
    """What a script says of options that it does not take, as it ends with status 2."""

    def of(parse_args: Callable, options: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            parse_args(options)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return of


@pytest.fixture
def saved_classifier(tmp_path):
    """A tiny classifier's folder, and a table of text."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, num_labels=3, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    lines = ["text", *(" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(600))]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "model", tmp_path / "rows.tsv"
