"""A conversion of text of one label, or on a full disk, ends in one sentence."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from transformers import BertForSequenceClassification, BertForTokenClassification

from fastmux import files
from fastmux.converting.convert import convert

QUICK = {"max_steps": 3, "per_device_train_batch_size": 16, "disable_tqdm": True}


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForTokenClassification])
def test_text_of_one_label_is_refused(kind, tiny_config, tokenizer, texts, tmp_path):
    """Agreement with it means nothing; of a few rows it may be chance."""
    model = kind(tiny_config).eval()
    with torch.no_grad():
        model.classifier.bias[2] = 1000.0
    message = "gives all .* that are kept apart one label, 'LABEL_2': agreement with it means nothing"
    with pytest.raises(ValueError, match=message):
        convert(model, [f"w1 {text}" for text in texts] * 7, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_before_and_while_it_trains(original, tokenizer, texts, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as disk:
        disk.setattr(files.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        with pytest.raises(
            OSError, match=r"the conversion keeps up to .* GiB there while it runs, and 0\.0 GiB are free"
        ):
            convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    assert not (tmp_path / "out").exists()

    def full(*args, **kwargs):  # as safetensors says it
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("fastmux.distillation.distil.DistillationTrainer.train", full)
    with pytest.raises(OSError, match=r"Is the disk full.*the same command goes on from there"):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    assert not (tmp_path / "out" / "config.json").exists()
