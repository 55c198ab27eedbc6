"""The last layer at the positions that are read: what the whole encoder says there."""

from __future__ import annotations

import pytest
import torch
from models import BERT, FAMILIES, batch
from torch import nn
from transformers import AutoModel

import fastmux
from fastmux.joins import BERT_LIKE
from fastmux.models import tmux
from fastmux.models.last_layer import first_positions, states_at_first_positions
from fastmux.testing import assert_agrees


def encoder_of(family: str, **options):
    model = AutoModel.from_config(FAMILIES[family], **options).eval()
    with torch.no_grad():  # biases and LayerNorms of a new model are zeros and ones
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_layer_at_the_first_positions_is_the_layer(attention, count):
    layer = encoder_of("bert", attn_implementation=attention).double().encoder.layer[0]
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    keep = torch.ones(3, 7, dtype=torch.bool)
    keep[1, 4:] = keep[2, 1:] = False
    mask = torch.zeros(3, 1, 1, 7, dtype=x.dtype).masked_fill(~keep[:, None, None], torch.finfo(x.dtype).min)

    def check(k, m):
        assert_agrees(first_positions(layer, x, k, count), layer(x, m)[:, :count])

    check(None, None)
    check(keep, mask)
    layer.attention.self.query = nn.Sequential(layer.attention.self.query)  # an adapter: its forward runs
    check(keep, mask)
    seen = []
    layer.output.register_forward_hook(lambda module, inputs, output: seen.append(output) or 2 * output)
    check(keep, mask)
    assert seen[0].shape == (3, 7, 16)


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_are_those_of_the_layer(count):
    layer, x = encoder_of("bert").double().encoder.layer[0], torch.randn(3, 7, 16, dtype=torch.float64)
    # The softmax drops the bias of one position's keys, whose gradient is rounding alone.
    weights = [p for name, p in layer.named_parameters() if "key.bias" not in name]
    ours = torch.autograd.grad(first_positions(layer, x, None, count).square().sum(), weights)
    theirs = torch.autograd.grad(layer(x)[:, :count].square().sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert_agrees(a, b)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_whole_encoder(family, attention):
    # Those of other families have the attention that they have.
    options = {"attn_implementation": attention} if FAMILIES[family].model_type in BERT_LIKE else {}
    encoder = encoder_of(family, **options)
    x, mask = torch.randn(3, 9, 16), batch(3, 9, padded=True)["attention_mask"]
    for keep in (None, mask):
        for count in (1, 4):
            found = states_at_first_positions(encoder, x, keep, count)
            assert (found is not None) == (FAMILIES[family].model_type in BERT_LIKE)
            if found is not None:
                expected = encoder(inputs_embeds=x, attention_mask=keep).last_hidden_state[:, :count]
                assert_agrees(found, expected)


@pytest.mark.parametrize("demultiplexer", ["index", "unbind", "key"])
@pytest.mark.parametrize("family", sorted(BERT_LIKE))
def test_logits_are_those_of_the_whole_encoder(family, demultiplexer, monkeypatch):
    torch.manual_seed(0)
    options = {"num_labels": 3, "demultiplexer": demultiplexer}
    model = fastmux.TMuxForSequenceClassification.from_backbone(encoder_of(family), 4, **options).eval()
    inputs, found = batch(10, padded=True), []

    def partly(*args):
        found.append(states_at_first_positions(*args))
        return found[-1]

    monkeypatch.setattr(tmux, "states_at_first_positions", partly)
    logits = model(**inputs).logits
    assert found[0].shape[1] == (5 if demultiplexer == "index" else 1)
    monkeypatch.setattr(tmux, "states_at_first_positions", lambda *args: None)
    assert_agrees(logits, model(**inputs).logits)


def changed(what: str, model) -> None:
    encoder = model.tmux.backbone
    if what == "hook":
        encoder.register_forward_hook(lambda module, inputs, output: None)
    elif what == "encoder hook":
        encoder.encoder.register_forward_hook(lambda module, inputs, output: None)
    elif what == "training":
        model.train()
    elif what == "hidden states":
        model.config.output_hidden_states = True
    elif what == "forward":
        encoder.forward = encoder.forward.__func__.__get__(encoder)
        encoder.forward = lambda *args, forward=encoder.forward, **kwargs: forward(*args, **kwargs)


@pytest.mark.parametrize("what", ["hook", "encoder hook", "training", "hidden states", "forward", "labels", "asked"])
def test_who_wants_more_gets_the_whole_encoder(what):
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 2, num_labels=3, demultiplexer="index").eval()
    changed(what, model)
    shapes = []
    last = model.tmux.backbone.encoder.layer[-1]
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1]))
    more = {"labels": {"labels": torch.zeros(4, dtype=torch.long)}, "asked": {"output_hidden_states": True}}
    out = model(**batch(4), **more.get(what, {}))
    assert shapes == [7 + 3] and out.logits.shape == (4, 3)
    if what in ("hidden states", "asked"):
        assert len(out.hidden_states) == 3


@pytest.mark.parametrize("multiplexer", ["hadamard", "orthogonal", "walsh_hadamard", "attention"])
def test_the_index_prefix_is_multiplexed_once_while_weights_stay(multiplexer, monkeypatch):
    model = fastmux.TMuxForSequenceClassification.from_backbone(
        BERT, 4, multiplexer=multiplexer, demultiplexer="index", num_labels=3
    ).eval()
    inputs, calls = batch(16, padded=True), []
    prefix = fastmux.TMux._embedded_prefix
    monkeypatch.setattr(fastmux.TMux, "_embedded_prefix", lambda *args: calls.append(1) or prefix(*args))
    expected = [model(**{name: t[i : i + 4] for name, t in inputs.items()}).logits for i in range(0, 16, 4)]
    assert len(calls) == 4
    calls.clear()
    logits = model.predict(**inputs, groups_per_batch=1)
    assert len(calls) == (4 if multiplexer == "attention" else 1)
    assert_agrees(logits, torch.cat(expected))
    with torch.no_grad():
        weight = model.tmux.prefix_tokens.weight.data
        weight.add_(torch.randn_like(weight))
    assert not torch.allclose(model.predict(**inputs, groups_per_batch=1), logits)
