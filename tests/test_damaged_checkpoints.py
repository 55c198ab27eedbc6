"""What is wrong with a stored model is said: damaged, unsafe and foreign files are refused, doubtful weights named."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from models import BERT
from published_checkpoints import random_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

import fastmux

SEQUENCE = fastmux.TMuxForSequenceClassification
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def stored() -> dict[str, tuple[dict, dict[str, torch.Tensor]]]:
    """(config, tensors) of a model in either layout."""
    model = SEQUENCE.from_backbone(BERT, 3, num_labels=4)
    published = random_checkpoint("MuxedBertForSequenceClassification", "gaussian_hadamard", "index_pos", seed=0)
    model.config.architectures = ["TMuxForSequenceClassification"]
    tensors = {key: t.clone() for key, t in model.state_dict().items()}
    return {
        "ours": (json.loads(model.config.to_json_string()), tensors),
        "published": (published.config, published.tensors),
    }


@pytest.fixture(params=["ours", "published"])
def layout(request) -> str:
    return request.param


@pytest.fixture
def write(stored, layout, tmp_path):
    """Writes a model of the layout, with other tensors or fields of its config, and gives the folder."""

    def write(file: str = SAFE, tensors: dict | None = None, **fields) -> Path:
        config, own = stored[layout]
        (tmp_path / "config.json").write_text(json.dumps(config | fields))
        kept = {key: t.clone() for key, t in own.items()} | (tensors or {})
        if file == SAFE:
            save_file(kept, tmp_path / file, metadata={"format": "pt"})
        else:
            torch.save(kept, tmp_path / file)
        return tmp_path

    return write


@pytest.fixture
def quiet():
    """No warning is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("file", [SAFE, PICKLED])
def test_what_is_sound_loads_without_a_word(write, file, quiet):
    assert SEQUENCE.from_pretrained(write(file)).num_labels in (3, 4)


@pytest.mark.parametrize("sixteenths", range(16))
@pytest.mark.parametrize("file", [SAFE, PICKLED])
def test_truncated_weights_are_refused(write, file, sixteenths):
    weights = write(file) / file
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) * sixteenths // 16])
    with pytest.raises(ValueError, match=rf"{re.escape(str(weights))}' are truncated, damaged or unsafe"):
        SEQUENCE.from_pretrained(weights.parent)


@pytest.mark.parametrize("sixteenths", [0, 1, 8, 15, 16])
def test_the_format_before_archives_is_read_and_its_truncation_seen(write, layout, stored, sixteenths, quiet):
    folder = write(PICKLED)
    torch.save(stored[layout][1], folder / PICKLED, _use_new_zipfile_serialization=False)
    whole = (folder / PICKLED).read_bytes()
    (folder / PICKLED).write_bytes(whole[: len(whole) * sixteenths // 16])
    if sixteenths == 16:
        SEQUENCE.from_pretrained(folder)
        return
    with pytest.raises(ValueError, match="truncated, damaged or unsafe"):
        SEQUENCE.from_pretrained(folder)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("format", ["archive", "before archives", "plain pickle"])
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(write, stored, layout, format, tmp_path):
    folder, trace = write(PICKLED), tmp_path / "it ran"
    content = {**stored[layout][1], "payload": Payload(trace)}
    if format == "plain pickle":
        (folder / PICKLED).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / PICKLED, _use_new_zipfile_serialization=format == "archive")
    with pytest.raises(ValueError, match="truncated, damaged or unsafe"):
        SEQUENCE.from_pretrained(folder)
    assert not trace.exists()
    torch.load(folder / PICKLED, weights_only=False) if format != "plain pickle" else pickle.loads(
        (folder / PICKLED).read_bytes()
    )
    assert trace.exists(), "the payload does nothing: the test proves nothing"


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(2)], ids=["list", "number", "tensor"])
def test_a_pickle_without_a_state_dict_is_refused(write, content):
    folder = write(PICKLED)
    torch.save(content, folder / PICKLED)
    with pytest.raises(ValueError, match="something other than a state dict of tensors"):
        SEQUENCE.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "dtype"),
    [
        (SAFE, torch.int64),
        (SAFE, torch.int8),
        (SAFE, torch.uint8),
        (SAFE, torch.bool),
        (SAFE, torch.complex64),
        (PICKLED, torch.int64),
        (PICKLED, torch.complex64),
    ],
)
def test_another_kind_of_number_is_refused(write, stored, layout, file, dtype):
    key = "classifier.weight"
    folder = write(file, {key: stored[layout][1][key].to(dtype)})
    # transformers itself refuses complex numbers in safetensors.
    with pytest.raises(ValueError, match=rf"has {key} in dtype \w+, expected a floating point dtype|unknown dtype C64"):
        SEQUENCE.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_precision_is_converted(write, stored, layout, dtype, quiet):
    tensors = {key: t.to(dtype) for key, t in stored[layout][1].items() if t.is_floating_point()}
    model = SEQUENCE.from_pretrained(write(tensors=tensors), dtype=torch.float32)
    assert torch.equal(model.classifier.weight, tensors["classifier.weight"].float())


def test_signs_that_are_no_integers_are_refused(tmp_path):
    SEQUENCE.from_backbone(BERT, 3, multiplexer="walsh_hadamard").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    key = "tmux.multiplexer.inner_signs"
    save_file(tensors | {key: tensors[key].half()}, tmp_path / SAFE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"has {key} in dtype F16, expected an integer dtype"):
        SEQUENCE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"has {key} in dtype F16, expected an integer dtype"):
        fastmux.TMux.from_pretrained(tmp_path, add_pooling_layer=False)


@pytest.mark.parametrize(
    ("file", "value"), [(SAFE, float("nan")), (SAFE, float("inf")), (SAFE, -float("inf")), (PICKLED, float("nan"))]
)
def test_weights_that_are_not_finite_are_named(write, stored, layout, file, value):
    key = "classifier.weight"
    weight = stored[layout][1][key].clone()
    weight[-1, -1] = value
    with pytest.warns(UserWarning, match=rf"NaN or infinite values in 1 tensors, e.g. \['{key}'\]"):
        model = SEQUENCE.from_pretrained(write(file, {key: weight}))
    assert torch.equal(model.classifier.weight.isfinite(), weight.isfinite())


def test_large_finite_weights_are_not(write, stored, layout, quiet):
    """Their sum is beyond float16's range."""
    key = "classifier.weight"
    model = SEQUENCE.from_pretrained(
        write(tensors={key: torch.full_like(stored[layout][1][key], 60000.0)}), dtype=torch.float16
    )
    assert model.classifier.weight.sum().isinf() and model.classifier.weight.isfinite().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json is not a valid JSON file"),
        (b'{"model_type": "tmux",', "config.json is not a valid JSON file"),
        (b"\xff\xfe{\x00}\x00", "config.json is not a valid JSON file"),
        (b"[1, 2]", "config.json holds a JSON list, expected an object"),
        (b'"tmux"', "config.json holds a JSON str, expected an object"),
        (b"{}", "a model of type None, expected 'tmux'"),
    ],
)
def test_a_config_that_is_none_is_refused(write, content, message):
    folder = write()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SEQUENCE.from_pretrained(folder)


def test_no_config_at_all_is_said_as_by_hugging_face(write):
    folder = write()
    (folder / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        SEQUENCE.from_pretrained(folder)


# --- our layout alone ---------------------------------------------------------------------------------------

ours = pytest.mark.parametrize("layout", ["ours"], indirect=True)
LOADERS = [SEQUENCE.from_pretrained, AutoModelForSequenceClassification.from_pretrained, AutoConfig.from_pretrained]
loaders = pytest.mark.parametrize("load", LOADERS, ids=["class", "auto class", "auto config"])


@ours
@loaders
@pytest.mark.parametrize("field", ["backbone_config", "num_instances", "multiplexer", "demultiplexer"])
def test_a_config_without_what_makes_the_model_is_refused(write, stored, field, load):
    folder = write(**{field: None})
    with pytest.raises(ValueError, match=f"config of a T-MUX model lacks {field}"):
        load(folder)
    config = {key: value for key, value in stored["ours"][0].items() if key != field}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config of a T-MUX model lacks {field}"):
        load(folder)


@ours
@loaders
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_config": "bert"}, "backbone_config is 'bert', expected the dict"),
        ({"backbone_config": {"hidden_size": 16}}, "backbone_config has no model_type"),
        ({"num_instances": "3"}, "num_instances is '3', expected an integer"),
        ({"multiplexer": "telepathy"}, "multiplexer is 'telepathy', expected one of"),
    ],
)
def test_a_config_of_other_values_is_refused(write, fields, message, load):
    with pytest.raises(ValueError, match=message):
        load(write(**fields))


@ours
@loaders
def test_a_later_version_with_fields_of_its_own_is_refused(write, load):
    later = {"fastmux_version": "99.0.0", "gain": 3, "multiplexer_gain": 2}
    with pytest.raises(ValueError, match=r"fastmux 99\.0\.0 and has fields .* does not know: gain, multiplexer_gain"):
        load(write(**later))


@ours
@loaders
@pytest.mark.parametrize("version", [fastmux.__version__, "0.0.1", "unknown", None])
def test_other_unknown_fields_are_kept_with_a_warning(write, load, version):
    with pytest.warns(UserWarning, match="no field multiplexr: kept, but without effect"):
        loaded = load(write(fastmux_version=version, multiplexr="orthogonal"))
    assert getattr(loaded, "config", loaded).multiplexr == "orthogonal"


@ours
def test_a_later_version_without_them_loads(write, quiet):
    assert SEQUENCE.from_pretrained(write(fastmux_version="99.0.0")).num_labels == 4


def test_a_field_that_is_none_is_said_where_it_is_given():
    with pytest.raises(ValueError, match="no field 'demultiplexor'; did you mean 'demultiplexer'"):
        fastmux.TMux.from_backbone(BERT, 3, demultiplexor="unbind")
    with pytest.warns(UserWarning, match="no field colour: kept, but without effect"):
        fastmux.TMux.from_backbone(BERT, 3, colour="blue")


def test_configs_say_which_version_wrote_them(tmp_path):
    SEQUENCE.from_backbone(BERT, 3).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["fastmux_version"] == fastmux.__version__


@ours
@pytest.mark.parametrize("damage", ["missing", "truncated", "index"])
def test_shards_are_checked_too(tmp_path, stored, layout, damage):
    # Of the tensors, half in each of two shards.
    config, tensors = stored[layout]
    keys = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for file, names in shards.items():
        save_file({k: tensors[k] for k in names}, tmp_path / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {k: f for f, names in shards.items() for k in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert SEQUENCE.from_pretrained(tmp_path).num_labels == 4

    last = tmp_path / list(shards)[1]
    if damage == "missing":
        last.unlink()
    elif damage == "truncated":
        last.write_bytes(last.read_bytes()[:-10])
    else:
        (tmp_path / "model.safetensors.index.json").write_text("[]")
    message = "is not the index of a checkpoint" if damage == "index" else f"{last.name}' are truncated, damaged"
    with pytest.raises(ValueError, match=message):
        SEQUENCE.from_pretrained(tmp_path)
