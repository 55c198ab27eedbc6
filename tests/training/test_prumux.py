"""Pruning x multiplexing: a table on a tiny classifier, what is left of its layers, and bad input."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from word_tokenizer import word_tokenizer

import fastmux
from fastmux.distribution import MissingExtraError
from fastmux.testing import assert_agrees
from fastmux.training import experiment
from fastmux.training.experiments import Multiplexing
from fastmux.training.experiments.prumux import Prumux, WithStates, asked, layer_weights, prune, read_reviews

WORDS = [f"w{i}" for i in range(30)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 35}


def classifier(**more):
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, **more)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier, and rows whose label is whether w0 is there."""
    folder = tmp_path_factory.mktemp("prumux")
    classifier().save_pretrained(folder / "original")
    word_tokenizer(WORDS).save_pretrained(folder / "original")
    draw = random.Random(0)
    for name, rows in (("train", 48), ("dev", 24)):
        lines = ["sentence\tlabel"]
        for _ in range(rows):
            row = [draw.choice(WORDS[:3] + WORDS) for _ in range(draw.randint(2, 9))]
            lines.append(f"{' '.join(row)}\t{int('w0' in row)}")
        (folder / f"{name}.tsv").write_text("\n".join([*lines, ""]))
    return folder


def call(folder, output, *more):
    sizes = "--max_steps 2 --per_device_train_batch_size 8 --per_device_eval_batch_size 8 --timed_rows 8 --bf16 false"
    return experiment.main(["prumux", "--data_dir", str(folder), "--output_dir", str(output), *sizes.split(), *more])


def test_a_table(folder, tmp_path):
    pytest.importorskip("torch_pruning")
    more = ["--original", str(folder / "original"), "--num_instances", "1", "2", "--variants", "plain", "0.6 pruned"]
    lines = call(folder, tmp_path / "out", *more)
    cells = [(line.variant, line.num_instances) for line in lines]
    assert cells == [("plain", 1), ("plain", 2), ("0.6 pruned", 1), ("0.6 pruned", 2)]
    for line in lines:
        left = line.scores["layer weights left"].mean
        assert left == 1 if line.variant == "plain" else 0.3 < left < 0.5
        assert line.scores["instances/s"].mean > 0 and line.scores["x original"].mean > 0
        assert len(line.scores["accuracy"].values) == 1 and line.slots is None  # each row has its own positions
    # Nothing was trained of the original, and so it says what it says elsewhere.
    _, test = read_reviews(str(folder), str(folder / "original"), 64, 16000, 0)
    with torch.no_grad():
        logits = classifier()(input_ids=test["input_ids"], attention_mask=test["attention_mask"]).logits
    assert lines[0].scores["accuracy"].mean == pytest.approx(float((logits.argmax(1) == test["label"]).float().mean()))
    assert (tmp_path / "out" / "results.png").stat().st_size > 5000
    assert call(folder, tmp_path / "out", *more) == lines  # nothing is trained again


def test_rows_that_are_joined_have_slots(folder, tmp_path):
    (line,) = call(
        folder,
        tmp_path / "out",
        *["--original", str(folder / "original"), "--variants", "plain", "--num_instances", "2", "--join", "rows"],
        *["--groupings", "2"],
    )
    assert len(line.scores["accuracy"].values) == 2 and len(line.slots) == 2


def test_pruned_layers_are_smaller_and_run():
    pytest.importorskip("torch_pruning")
    model = classifier()
    ids = torch.randint(5, 35, (6, 7))
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.bias[::2] = -50.0  # units that nothing would come of
    before = layer_weights(model)
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "label": torch.arange(6) % 2}
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    whole = fastmux.JoinedForSequenceClassification.from_backbone(model, 1).eval()
    assert_agrees(whole(input_ids=ids).logits, logits)
    prune(model, rows, 0.5)
    assert 0.45 < layer_weights(model) / before < 0.55
    assert model.bert.encoder.layer[0].intermediate.dense.bias.min() > -1  # these are the ones that went
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        assert attention.num_attention_heads == 2 and attention.value.out_features == 16
        assert layer.attention.output.dense.in_features == 16
        assert layer.intermediate.dense.out_features == layer.output.dense.in_features == 24
        assert layer.output.dense.out_features == 32
    # The last layer is folded with as many heads as there are now.
    pruned = fastmux.JoinedForSequenceClassification.from_backbone(model, 1).eval()
    assert_agrees(pruned(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_original_says_of_each_row_what_it_says_alone():
    original, lengths = WithStates(classifier()), torch.tensor([3, 7, 2, 5])
    ids = torch.randint(5, 35, (4, 7)) * (torch.arange(7) < lengths[:, None])
    said = asked(original, {"input_ids": ids, "attention_mask": (ids != 0).long(), "length": lengths})
    for row, length in enumerate(lengths):
        logits, states = original(ids[row : row + 1, :length], torch.ones(1, int(length)))
        assert_agrees(said["teacher_logits"][row], logits[0])
        assert_agrees(said["teacher_states"][row], states[0])


def test_bad_input(folder, tmp_path, monkeypatch):
    original = ["--original", str(folder / "original")]
    with pytest.raises(ValueError, match="original is needed, a trained classifier of SST-2"):
        call(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"tokenizer .*nowhere.* cannot be loaded"):
        call(folder, tmp_path / "out", "--original", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"sparsity is 1\.5, expected a number from 0 to below 1"):
        call(folder, tmp_path / "out", *original, "--sparsity", "1.5")
    with pytest.raises(ValueError, match="rows have no column 'width'"):
        call(folder, tmp_path / "out", *original, "--length_column_name", "width")
    with pytest.raises(ValueError, match="multiplexers and demultiplexers are not for joined layers"):
        Prumux(original=str(folder / "original")).model(Multiplexing(2, demultiplexer="mlp"))
    classifier(num_labels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(ValueError, match="3 labels, expected SST-2's 2"):
        Prumux(original=str(tmp_path / "three")).model(Multiplexing(2))
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    missing = r"torch_pruning is not installed; pip install 'fastmux-transformers\[pruning\]'"
    with pytest.raises(MissingExtraError, match=missing):
        call(folder, tmp_path / "out", *original, "--variants", "0.6 pruned")
    assert not (tmp_path / "out").exists()
