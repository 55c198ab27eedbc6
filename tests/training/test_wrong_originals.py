"""Nothing learns from an encoder or an original that is none of the task."""

from __future__ import annotations

import pytest
import torch
from tiny_tasks import write_tasks
from transformers import BertForSequenceClassification, BertForTokenClassification, BertModel

from fastmux.training import front, train


def arguments(data, output) -> list[str]:
    (data / "own.yaml").write_text("cut: {}\n")
    words = ["--data_dir", str(data), "--encoder", str(data / "encoder"), "--candidates", str(data / "own.yaml")]
    words += ["--max_rate_rows", "8", "--groupings", "1"]
    return [*words, "--task", "sst2", "--output_dir", str(output), "--per_device_train_batch_size", "32"]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return write_tasks(tmp_path / "data")


@pytest.mark.parametrize("given", [True, False], ids=["given", "trained"])
def test_an_original_that_gives_all_rows_one_label_is_refused_before_anything_learns_from_it(given, data, tmp_path):
    more = ["--original_learning_rate", "100"]  # from which nothing is learnt
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
    words = arguments(data, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        front.main([*words, *more])
    assert not (tmp_path / "out" / "cut").exists() and not (tmp_path / "out" / "teacher").exists()


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (BertModel, {}, "has no classifier.bias, expected --encoder with a head for sst2"),
        (BertForTokenClassification, {"num_labels": 2}, "has no bert.pooler"),
        (BertForSequenceClassification, {"num_labels": 3}, "has 3 labels, expected the 2 of sst2"),
    ],
)
def test_an_original_that_is_no_classifier_of_the_task_is_refused(kind, options, message, data, tmp_path):
    kind.from_pretrained(data / "encoder", **options).save_pretrained(tmp_path / "original")
    with pytest.raises(ValueError, match=f"--original .*original {message}"):
        front.main([*arguments(data, tmp_path / "out"), "--original", str(tmp_path / "original")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", [front, train])
@pytest.mark.parametrize(
    "missing, message",
    [("tokenizer*", "has no tokenizer beside it"), ("*.safetensors", "--encoder '.*' cannot be loaded: .*safetensors")],
)
def test_an_encoder_that_lacks_something_is_refused(program, missing, message, data, tmp_path):
    for path in (data / "encoder").glob(missing):
        path.unlink()
    given = arguments(data, tmp_path / "out")
    if program is train:
        given = ["--task", "sst2", "--data_dir", str(data), "--encoder", str(data / "encoder"), "--max_steps", "1"]
        given += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises((ValueError, SystemExit), match=message):
        program.main(given)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_entry_or_of_other_rows_is_not_measured_as_this_one(data, tmp_path):
    given = arguments(data, tmp_path / "out")
    front.main(given)
    (data / "own.yaml").write_text("cut: {ffn_width: 0.5}\n")
    with pytest.raises(ValueError, match=r"is of another cut: ffn_width was 1\.0, is 0\.5\. Give it another name"):
        front.main(given)
    (data / "own.yaml").write_text("cut: {}\n")
    lines = (data / "sst2" / "train.tsv").read_text().splitlines()
    (data / "sst2" / "train.tsv").write_text("\n".join([*lines[:-1], ""]))
    with pytest.raises(ValueError, match=r"holds work of other train rows\. Give another folder"):
        front.main(given)


def test_rows_that_the_encoder_has_no_room_for_are_refused(data, tmp_path):
    (data / "sst2" / "dev.tsv").write_text("sentence\tlabel\n" + "w1 " * 60 + "\t1\nw0\t0\n")
    with pytest.raises(ValueError, match=r"--max_length is 128, and a row has 62 tokens, but .* has room for 40"):
        front.main(arguments(data, tmp_path / "out"))
