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
from fastmux.joins import JOINS
from fastmux.testing import assert_agrees

#: Taggers read every position, and cannot be pooled.
KINDS = [(join, kind) for join in JOINS for kind in HEADS if (join, kind) != ("pooled", "token")]
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


@pytest.mark.parametrize("kind", [*HEADS, "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_encoder_has_a_plain_form(family, kind, tmp_path):
    original = plain(family, kind)
    cut, inputs = joined(original, 1, joined_layers=[2]), batch()
    cut.plain().save_pretrained(tmp_path)
    loaded = type(original).from_pretrained(tmp_path)
    assert not cut.plain().training and loaded.config.num_hidden_layers == 3
    assert loaded.config.id2label == original.config.id2label
    real = slice(None) if kind == "sequence" else inputs["attention_mask"] == 1
    assert_agrees(loaded(**inputs)[0][real], cut(**inputs)[0][real])


def test_a_joined_model_has_no_plain_form():
    with pytest.raises(ValueError, match="the model has no form without fastmux"):
        joined(plain(), 2).plain()


@pytest.mark.parametrize("middle", [[], [2]])
def test_one_instance_of_fewer_layers_is_a_cut_encoder(middle):
    model = plain()
    cut = joined(model, 1, joined_layers=middle)
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[i] for i in [0, *middle, 4])
    assert_agrees(cut(**batch()).logits, model(**batch()).logits)


def run(layers, x, mask):
    scores = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask == 0, torch.finfo(x.dtype).min)
    for layer in layers:
        x = layer(x, scores[:, None, None])
    return x


def separated(encoder, own, keep, num_instances):
    """What the last layers run on, and its mask, where joined states are separated."""
    options = (num_instances,) if encoder.join == "positions" else (encoder.signs,)
    joined, joined_keep = getattr(reference, f"join_{encoder.join}")(own, keep, *options)
    deep = run(encoder.layer[2:-1], joined, joined_keep)
    back = getattr(reference, f"separate_{encoder.join}")(deep, *options, length=own.shape[1])
    norm = encoder.layer_norm
    return nn.functional.layer_norm(encoder.dense(back) + own, (32,), norm.weight, norm.bias, norm.eps), keep


def pooled(encoder, own, keep, num_instances):
    joined, joined_keep = reference.join_positions(own, keep, num_instances)
    return run(encoder.layer[2:-1], joined, joined_keep), joined_keep


def shared_feed_forward(encoder, x, keep, num_instances):
    scores = torch.zeros(keep.shape, dtype=x.dtype).masked_fill(keep == 0, torch.finfo(x.dtype).min)
    for layer in encoder.layer[2:-1]:
        a = layer.attention(x, scores[:, None, None])[0]
        change = lambda y, own=layer: own.output.dense(own.intermediate(y))  # noqa: E731
        x = layer.output.LayerNorm(reference.feed_forward_of_positions(a, keep, num_instances, change))
    return x, keep


DEEPER = {"positions": separated, "rows": separated, "pooled": pooled, "feed_forward": shared_feed_forward}


@pytest.mark.parametrize("length", [1, 2, 8, 11])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_instances", [2, 3, 4])
@pytest.mark.parametrize("join", JOINS)
def test_states_are_those_of_the_reference(join, num_instances, padded, length):
    model = plain(kind="none").double()
    fast = joined(model, num_instances, join=join, row_layers=2, last_layers=1)
    encoder = fast.model.encoder
    if hasattr(encoder, "dense"):
        with torch.no_grad():
            encoder.dense.weight.add_(0.1 * torch.randn(32, 32, dtype=torch.float64))
            encoder.dense.bias.normal_()
    inputs = batch(rows=2 * num_instances, length=length)
    keep = inputs["attention_mask"] if padded else torch.ones_like(inputs["attention_mask"])
    keep[:, 0] = 1
    states = fast(input_ids=inputs["input_ids"], attention_mask=keep if padded else None).last_hidden_state
    own = run(encoder.layer[:2], model.embeddings(input_ids=inputs["input_ids"]), keep)
    deep, deep_keep = DEEPER[join](encoder, own, keep, num_instances)
    expected = run(encoder.layer[-1:], deep, deep_keep)
    if join == "pooled":
        expected = reference.separate_positions(expected, num_instances, length)
    assert_agrees(states[keep == 1], expected[keep == 1])


@pytest.mark.parametrize("num_instances", [2, 3, 4])
def test_the_mean_of_pooled_states_is_that_of_windows_by_their_size(num_instances):
    fast = joined(plain(kind="none").double(), num_instances, join="pooled")
    inputs = batch()
    keep, states = inputs["attention_mask"], fast(**inputs).last_hidden_state
    windows = [[0], *(list(range(8))[k : k + num_instances] for k in range(1, 8, num_instances))]
    for row in range(5):
        sizes = torch.tensor([int(keep[row, w].sum()) for w in windows])
        own = torch.stack([states[row, w[0]] for w in windows])
        assert_agrees(states[row, keep[row] == 1].mean(0), (own * sizes[:, None]).sum(0) / sizes.sum())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("join", JOINS)
def test_padding_changes_nothing(join, side):
    fast = joined(plain(), 3, join=join)
    inputs = batch(rows=6)
    expected = fast(**inputs).logits
    if side == "left":
        shift = [[(k + n) % 8 for k in range(8)] for n in inputs["attention_mask"].sum(1).tolist()]
        inputs = {name: t.gather(1, torch.tensor(shift)) for name, t in inputs.items()}
        assert (inputs["attention_mask"][:, -1] == 1).all()
    more = (5, 0) if side == "left" else (0, 5)
    longer = {name: nn.functional.pad(t, more, value=1 - (name != "input_ids")) for name, t in inputs.items()}
    assert_agrees(fast(**longer).logits, expected)


@pytest.mark.parametrize("join", [join for join in JOINS if join != "rows"])
def test_joined_positions_leave_the_other_rows_alone(join):
    fast, inputs = joined(plain(), 2, join=join), batch()
    alone = torch.cat([fast(**{name: t[row : row + 1] for name, t in inputs.items()}).logits for row in range(5)])
    assert_agrees(fast(**inputs).logits, alone)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_any_number_of_rows_can_be_joined(rows):
    fast, inputs = joined(plain(), 3, join="rows"), batch(rows)
    filled = {name: t[torch.arange(9) % rows] for name, t in inputs.items()}
    assert_agrees(fast(**inputs).logits, fast(**filled).logits[:rows])


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("join", ["positions", "rows", "feed_forward"])
def test_short_rows(join, length):
    ids = torch.full((2, length), 7)
    assert joined(plain(kind="token"), 4, join=join)(input_ids=ids).logits.shape == (2, length, 3)


@pytest.mark.parametrize(("join", "kind"), KINDS)
def test_every_parameter_has_a_gradient(join, kind):
    model = plain(kind=kind)
    fast = joined(model, 2, join=join, joined_layers=[1, 3])
    if join == "rows":
        nn.init.eye_(fast.model.bert.encoder.dense.weight)  # zeros, to begin with, let no gradient through
    labels = torch.tensor([0, 1, 2, 0, 1]) if kind == "sequence" else torch.ones(5, 8, dtype=torch.long)
    fast.train()(**batch(), labels=labels).loss.backward()
    # What is missing: the bias of a key, which no softmax sees, where the layer is folded to one position.
    lacking = {name for name, p in fast.named_parameters() if p.grad is None}
    folded = {"model.bert.encoder.layer.3.attention.self.key.bias"} if kind == "sequence" else set()
    assert lacking == folded


@pytest.mark.parametrize(("join", "kind"), KINDS)
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
        ({"num_instances": 2, "join": "columns"}, "join is 'columns', expected one of 'positions', 'rows', 'pooled'"),
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


def test_a_head_that_reads_every_position_is_not_pooled():
    with pytest.raises(ValueError, match="join is 'pooled', expected one of 'positions', 'rows', 'feed_forward': the"):
        joined(plain(kind="token"), 2, join="pooled")


def test_other_encoders_are_refused():
    config = transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=60)
    with pytest.raises(ValueError, match=r"backbone is a 'distilbert' model; .* bert, camembert"):
        fastmux.JoinedModel.from_backbone(AutoModel.from_config(config), 2)
