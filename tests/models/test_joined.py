"""Models whose deeper layers run on joined states, held to `fastmux.reference` and to the plain model."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from joined_models import HEADS, joined, plain
from torch import nn
from transformers import AutoModel

import fastmux
from fastmux import reference
from fastmux.testing import assert_agrees

FAMILIES = ["Bert", "Roberta", "XLMRoberta", "Electra", "Camembert"]


def batch(rows: int = 5, length: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % 4 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_instance_is_the_model_itself(family, kind, attention):
    model = plain(family, kind, attn_implementation=attention)
    inputs = batch()
    logits = joined(model, 1)(**inputs).logits
    expected = model(**inputs).logits
    real = slice(None) if kind == "sequence" else inputs["attention_mask"] == 1
    assert_agrees(logits[real], expected[real])


@pytest.mark.parametrize("middle", [[], [2]])
def test_one_instance_of_fewer_layers_is_a_cut_encoder(middle):
    model = plain()
    cut = joined(model, 1, joined_layers=middle)
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[i] for i in [0, *middle, 4])
    assert_agrees(cut(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_instances", [2, 3, 4])
@pytest.mark.parametrize("join", ["positions", "rows"])
def test_states_are_those_of_the_reference(join, num_instances, padded):
    model = plain(kind="none").double()
    fast = joined(model, num_instances, join=join, row_layers=2, last_layers=1)
    encoder = fast.model.encoder
    with torch.no_grad():
        encoder.dense.weight.add_(0.1 * torch.randn(32, 32, dtype=torch.float64))
        encoder.dense.bias.normal_()
    inputs = batch(rows=2 * num_instances)
    keep = inputs["attention_mask"] if padded else torch.ones_like(inputs["attention_mask"])
    states = fast(input_ids=inputs["input_ids"], attention_mask=keep if padded else None).last_hidden_state

    def run(layers, x, mask):
        scores = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask == 0, torch.finfo(x.dtype).min)
        for layer in layers:
            x = layer(x, scores[:, None, None])
        return x

    layers = encoder.layer
    own = run(layers[:2], model.embeddings(input_ids=inputs["input_ids"]), keep)
    options = (num_instances,) if join == "positions" else (encoder.signs,)
    joining = getattr(reference, f"join_{join}")
    separating = getattr(reference, f"separate_{join}")
    deep = run(layers[2:-1], *joining(own, keep, *options))
    back = separating(deep, *options, length=own.shape[1])
    norm = encoder.layer_norm
    z = nn.functional.layer_norm(encoder.dense(back) + own, (32,), norm.weight, norm.bias, norm.eps)
    expected = run(layers[-1:], z, keep)
    assert_agrees(states[keep == 1], expected[keep == 1])


@pytest.mark.parametrize("join", ["positions", "rows"])
def test_padding_changes_nothing(join):
    fast = joined(plain(), 3, join=join)
    inputs = batch(rows=6)
    longer = {name: nn.functional.pad(t, (0, 5), value=1 - (name != "input_ids")) for name, t in inputs.items()}
    assert_agrees(fast(**longer).logits, fast(**inputs).logits)


def test_joined_positions_leave_the_other_rows_alone():
    fast, inputs = joined(plain(), 2), batch()
    alone = torch.cat([fast(**{name: t[row : row + 1] for name, t in inputs.items()}).logits for row in range(5)])
    assert_agrees(fast(**inputs).logits, alone)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_any_number_of_rows_can_be_joined(rows):
    fast, inputs = joined(plain(), 3, join="rows"), batch(rows)
    filled = {name: t[torch.arange(9) % rows] for name, t in inputs.items()}
    assert_agrees(fast(**inputs).logits, fast(**filled).logits[:rows])


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("join", ["positions", "rows"])
def test_short_rows(join, length):
    ids = torch.full((2, length), 7)
    assert joined(plain(kind="token"), 4, join=join)(input_ids=ids).logits.shape == (2, length, 3)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("join", ["positions", "rows"])
def test_every_parameter_has_a_gradient(join, kind):
    model = plain(kind=kind)
    fast = joined(model, 2, join=join, joined_layers=[1, 3])
    nn.init.eye_(fast.model.bert.encoder.dense.weight)  # zeros, to begin with, let no gradient through
    labels = torch.tensor([0, 1, 2, 0, 1]) if kind == "sequence" else torch.ones(5, 8, dtype=torch.long)
    fast.train()(**batch(), labels=labels).loss.backward()
    # What is missing: the bias of a key, which no softmax sees, where the layer is folded to one position.
    lacking = {name for name, p in fast.named_parameters() if p.grad is None}
    folded = {"model.bert.encoder.layer.3.attention.self.key.bias"} if kind == "sequence" else set()
    assert lacking == folded


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("join", ["positions", "rows"])
def test_saved_and_loaded(tmp_path, join, kind):
    model = plain(kind=kind)
    before = copy.deepcopy(model.state_dict())
    fast, inputs = joined(model, 2, join=join, joined_layers=[1, 2]), batch()
    fast.save_pretrained(tmp_path)
    loaded = HEADS[kind][0].from_pretrained(tmp_path)
    assert type(loaded) is type(fast)
    assert not loaded.training
    assert loaded.config.backbone_config.num_hidden_layers == 4
    assert loaded.config.id2label == model.config.id2label
    assert_agrees(loaded(**inputs).logits, fast(**inputs).logits)
    for name, t in model.state_dict().items():  # the original stays as it was
        assert torch.equal(t, before[name]), name
    assert len(model.bert.encoder.layer) == 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_instances": 0}, "num_instances is 0, expected an integer of at least 1"),
        ({"num_instances": True}, "num_instances is True"),
        ({"num_instances": 2, "join": "columns"}, "join is 'columns', expected one of 'positions', 'rows'"),
        ({"num_instances": 2, "row_layers": -1}, "row_layers is -1"),
        ({"num_instances": 2, "row_layers": 4}, "row_layers is 4 and last_layers is 1, expected fewer than 5"),
        ({"num_instances": 2, "joined_layers": []}, r"joined_layers is \[\], expected ascending numbers from 1 to 3"),
        ({"num_instances": 2, "joined_layers": [1, 1]}, r"joined_layers is \[1, 1\]"),
        ({"num_instances": 2, "joined_layers": [0]}, r"joined_layers is \[0\]"),
        ({"num_instances": 2, "first_layers": 2}, "first_layers is 2, expected at most last_layers, 1"),
        ({"num_instances": 2, "first_layers": 0}, "first_layers is 0, expected an integer of at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        joined(plain(), **options)


def test_other_encoders_are_refused():
    config = transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=60)
    with pytest.raises(ValueError, match=r"backbone is a 'distilbert' model; .* bert, camembert"):
        fastmux.JoinedModel.from_backbone(AutoModel.from_config(config), 2)
