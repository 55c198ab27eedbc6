"""Nothing learns from an original that gives all rows one label."""

from __future__ import annotations

import pytest
import torch
from tiny_tasks import write_tasks
from transformers import BertForSequenceClassification

from fastmux.training import front


@pytest.mark.parametrize("given", [True, False], ids=["given", "trained"])
def test_an_original_that_gives_all_rows_one_label_is_refused_before_anything_learns_from_it(given, tmp_path):
    data, more = tmp_path / "data", ["--original_learning_rate", "100"]  # from which nothing is learnt
    data.mkdir()
    write_tasks(data)
    rows = (data / "sst2" / "train.tsv").read_text().splitlines()
    (data / "sst2" / "dev.tsv").write_text("\n".join([*rows, *rows[1:], ""]))
    if given:
        model = BertForSequenceClassification.from_pretrained(data / "encoder")
        with torch.no_grad():
            model.classifier.bias[1] = 100.0
        model.save_pretrained(tmp_path / "original")
        more = ["--original", str(tmp_path / "original")]
    trained = "train it in another folder with an --original_learning_rate below 100"
    advice = "give one that was trained" if given else trained
    message = f"--original: it gives all 128 rows one label, '.*': agreement with it means nothing; {advice}"
    (data / "own.yaml").write_text("cut: {}\n")
    words = ["--data_dir", str(data), "--encoder", str(data / "encoder"), "--candidates", str(data / "own.yaml")]
    words += ["--task", "sst2", "--output_dir", str(tmp_path / "out"), "--per_device_train_batch_size", "32"]
    with pytest.raises(ValueError, match=message):
        front.main([*words, *more])
    assert not (tmp_path / "out" / "cut").exists() and not (tmp_path / "out" / "teacher").exists()
