"""The authors' checkpoints: ten of them in miniature, with the outputs that the authors' own code computed, and one of
every layout, with the outputs of `published_models`, an independent implementation that is held to the ten first."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from published_checkpoints import LAYOUTS, random_batch, random_checkpoint, store
from published_models import Published
from safetensors.torch import load, save_file

import fastmux
from fastmux.testing import assert_agrees

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
LOSSES = ("task_loss", "retrieval_loss", "loss")
CLASSES = {"seq": "TMuxForSequenceClassification", "tok": "TMuxForTokenClassification", "mlm": "TMuxForMaskedLM"}


def model_class(name: str) -> type:
    return getattr(fastmux, CLASSES[name.split("-")[1]])


def tensors(name: str, file: str) -> dict[str, torch.Tensor]:
    return load(gzip.decompress((GOLDEN / name / f"{file}.safetensors.gz").read_bytes()))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folder of a published checkpoint by name, unpacked once."""
    unpacked: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            shutil.copy(GOLDEN / name / "config.json", unpacked[name])
            save_file(tensors(name, "model"), unpacked[name] / "model.safetensors")
        return unpacked[name]

    return folder


def inputs_and_outputs(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the model is called with, short groups filled as the authors' were, and what must come out."""
    golden = tensors(name, "io")
    outputs = {k: golden.pop(k) for k in ("logits", "loss", "task_loss", "retrieval_loss")}
    filling = golden.pop("padding_rows", torch.tensor([], dtype=torch.long))
    rows = {k: torch.cat([golden[k], golden[k][filling]]) for k in ("input_ids", "attention_mask")}
    labels = torch.cat([golden["labels"], torch.full_like(golden["labels"][: len(filling)], -100)])
    drawn = golden["retrieval_instance"]
    length = rows["input_ids"].shape[1]
    drawn = torch.nn.functional.pad(drawn, (length - drawn.shape[1], 0))  # what is left out is the first position
    return rows | {"labels": labels, "retrieval_instances": drawn}, outputs


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_authors_outputs(name, checkpoints, backend, device, tmp_path):
    model = model_class(name).from_pretrained(checkpoints(name), dtype=torch.float32).eval().to(device)
    inputs, expected = inputs_and_outputs(name)
    inputs, expected = ({k: t.to(device) for k, t in tensors.items()} for tensors in (inputs, expected))
    with torch.no_grad():
        out = model(**inputs)
    gold = independent(name)

    def agrees(out) -> None:
        logits = out.logits[inputs["labels"] != -100] if "-mlm-" in name else out.logits[: len(expected["logits"])]
        assert_agrees(logits, gold["logits"], expected["logits"], "logits")
        for loss in LOSSES:
            assert_agrees(out[loss], gold[loss], expected[loss], loss)

    agrees(out)
    model.save_pretrained(tmp_path)
    loaded = model_class(name).from_pretrained(tmp_path).eval().to(device)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "tmux"
    with torch.no_grad():
        again = loaded(**inputs)
    first, second = model.state_dict(), loaded.state_dict()
    assert first.keys() == second.keys() and [k for k in first if not torch.equal(first[k], second[k])] == []
    agrees(again)


def independent(name: str) -> dict[str, torch.Tensor]:
    """A fixture's outputs by the independent implementation, in float64."""
    golden = tensors(name, "io")
    config = json.loads((GOLDEN / name / "config.json").read_text())
    given = {k: t for k, t in golden.items() if k not in ("logits", *LOSSES)}
    return Published(config, tensors(name, "model"))(**given)


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_implementation_agrees_with_the_authors_outputs(name):
    golden, out = tensors(name, "io"), independent(name)
    # What the fixtures promise of their float32, read from a file: no processor has a part in it.
    torch.testing.assert_close(out["logits"].float(), golden["logits"], rtol=0, atol=2e-5)
    for loss in LOSSES:
        torch.testing.assert_close(out[loss].float(), golden[loss], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("seed", "layout"), list(enumerate(LAYOUTS)), ids=["-".join(layout) for layout in LAYOUTS])
def test_every_published_layout_agrees_with_the_independent_implementation(seed, layout, tmp_path):
    published = random_checkpoint(*layout, seed)
    store(published, tmp_path)
    batch = random_batch(published, seed, missing=seed % 2)
    expected = published(**batch)

    model = getattr(fastmux, CLASSES[published.task]).from_pretrained(tmp_path, dtype=torch.float64).eval()
    length = batch["input_ids"].shape[1]
    drawn = torch.nn.functional.pad(batch["retrieval_instance"], (length - batch["retrieval_instance"].shape[1], 0))
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    with torch.no_grad():
        out = model(**inputs, retrieval_instances=drawn)
    logits = out.logits[batch["labels"] != -100] if published.task == "mlm" else out.logits
    assert_agrees(logits, expected["logits"], what="logits")
    for loss in LOSSES:
        # transformers computes the classifiers' losses in float32.
        assert_agrees(out[loss].float(), expected[loss], what=loss)


SEQ = "muxbert-seq-gaussian_hadamard-index_pos-n2"


@pytest.fixture
def altered(checkpoints, tmp_path):
    """A copy of a checkpoint with other fields in its config, and other tensors."""

    def folder(change_tensors=None, **fields) -> Path:
        config = json.loads((checkpoints(SEQ) / "config.json").read_text()) | fields
        (tmp_path / "config.json").write_text(json.dumps(config))
        weights = tensors(SEQ, "model")
        if change_tensors is not None:
            change_tensors(weights)
        save_file(weights, tmp_path / "model.safetensors")
        return tmp_path

    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"muxing_variant": "telepathy"}, "muxing_variant = 'telepathy', expected one of gaussian_hadamard"),
        ({"demuxing_variant": None}, "demuxing_variant = None, expected one of index, mlp, index_pos"),
        ({"architectures": ["BertModel"]}, "architecture = 'BertModel', expected one of Roberta"),
        ({"num_instances": 3}, "do not fit their config"),
        ({"demuxing_variant": "index"}, "lacks .* tensors, e.g. .*demultiplexer.dense.bias"),
    ],
)
def test_a_config_of_an_unknown_layout_is_refused(altered, fields, message):
    with pytest.raises(ValueError, match=message):
        fastmux.TMuxForSequenceClassification.from_pretrained(altered(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.bias"), "lacks 1 tensors, e.g. .*classifier.bias"),
        (lambda t: t.pop("bert.encoder.layer.1.output.dense.bias"), "lacks 1 tensors of the model"),
        (lambda t: t.update(extra=torch.zeros(2)), "1 tensors that its config has no place for, e.g. .*extra"),
        (lambda t: t["retrieval_head.demux_module.dense_1.bias"].add_(1), "no place for, e.g. .*retrieval_head"),
    ],
)
def test_missing_and_surplus_tensors_are_refused(altered, change, message):
    with pytest.raises(ValueError, match=message):
        fastmux.TMuxForSequenceClassification.from_pretrained(altered(change))


def test_truncated_weights_and_no_weights_are_refused(altered):
    folder = altered()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated, damaged or unsafe"):
        fastmux.TMuxForSequenceClassification.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"no weights, expected one of model.safetensors, pytorch_model.bin"):
        fastmux.TMuxForSequenceClassification.from_pretrained(folder)


class Payload:
    def __reduce__(self):
        return (print, ("arbitrary code ran",))


def test_a_pickle_may_hold_tensors_and_nothing_else(altered, capsys):
    folder = altered()
    expected = fastmux.TMuxForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(tensors(SEQ, "model"), folder / "pytorch_model.bin")
    loaded = fastmux.TMuxForSequenceClassification.from_pretrained(folder).state_dict()
    assert [k for k in expected if not torch.equal(expected[k], loaded[k])] == []
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="truncated, damaged or unsafe"):
        fastmux.TMuxForSequenceClassification.from_pretrained(folder)
    assert "arbitrary code ran" not in capsys.readouterr().out


def test_another_task_takes_everything_but_the_head(checkpoints):
    folder = checkpoints(SEQ)
    model, info = fastmux.TMuxForTokenClassification.from_pretrained(folder, num_labels=7, output_loading_info=True)
    assert sorted(info["missing_keys"]) == ["classifier.bias", "classifier.weight"] and model.num_labels == 7
    encoder = fastmux.TMux.from_pretrained(folder, add_pooling_layer=False)
    first, second = model.tmux.state_dict(), encoder.state_dict()
    assert [k for k in second if not torch.equal(first[k], second[k])] == []
