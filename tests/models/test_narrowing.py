"""Layers with fewer neurons and heads, held to least squares and to the whole model."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import transformers
from joined_models import HEADS, joined, plain
from transformers import AutoModel

import fastmux
from fastmux import reference
from fastmux.models.narrowing import narrowed
from fastmux.testing import assert_agrees

FAMILIES = ["Bert", "Roberta", "XLMRoberta", "Electra", "Camembert"]


def batches(count: int = 3, rows: int = 20, length: int = 9, padded: bool = True):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(5, 60, (rows, length), generator=generator)
        mask = (torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=generator)).long()
        yield {"input_ids": ids, "attention_mask": mask} if padded else {"input_ids": ids}


@pytest.mark.parametrize("padded", [True, False])
def test_the_output_is_the_nearest_that_the_kept_neurons_can_give(padded, monkeypatch):
    monkeypatch.setattr("fastmux.models.narrowing._RIDGE", 0.0)
    model = plain(kind="none", layers=1).double()
    activations = []
    layer = model.encoder.layer[0]
    hook = layer.output.dense.register_forward_pre_hook(lambda _, inputs: activations.append(inputs[0]))
    given = list(batches(padded=padded))
    with torch.no_grad():
        for batch in given:
            model(**batch)
            if padded:
                activations[-1] = activations[-1][batch["attention_mask"] == 1]
    hook.remove()
    a = torch.cat([x.reshape(-1, x.shape[-1]) for x in activations])
    narrow = narrowed(model, 20, given).encoder.layer[0]
    first = layer.intermediate.dense.weight
    kept = torch.tensor([int((first == row).all(1).nonzero()) for row in narrow.intermediate.dense.weight])
    assert len(set(kept.tolist())) == 20
    weight, bias = reference.narrow_output(layer.output.dense.weight, layer.output.dense.bias, a, kept)
    assert_agrees(narrow.output.dense.weight, weight)
    assert_agrees(narrow.output.dense.bias, bias)


def test_neurons_are_chosen_better_than_at_random():
    model = plain(kind="none", layers=1).double()
    layer = model.encoder.layer[0]
    inputs, wanted = [], []
    layer.intermediate.register_forward_pre_hook(lambda _, x: inputs.append(x[0].flatten(0, 1)))
    layer.output.dense.register_forward_hook(lambda _, x, y: wanted.append((x[0].flatten(0, 1), y.flatten(0, 1))))
    with torch.no_grad():
        for batch in batches(padded=False):
            model(**batch)
    x, a, y = torch.cat(inputs), torch.cat([a for a, _ in wanted]), torch.cat([y for _, y in wanted])
    narrow = narrowed(model, 12, batches(padded=False)).encoder.layer[0]
    ours = (narrow.output.dense(narrow.intermediate(x)) - y).square().mean()
    torch.manual_seed(1)
    dense, errors = layer.output.dense, []
    for _ in range(20):
        kept = torch.randperm(48)[:12]
        weight, bias = reference.narrow_output(dense.weight, dense.bias, a, kept)
        errors.append((a[:, kept] @ weight.T + bias - y).square().mean())
    assert ours < min(errors)


@pytest.mark.parametrize("kind", [*HEADS, "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_neurons_are_the_model_itself(family, kind):
    model = plain(family, kind).double()
    before = copy.deepcopy(model.state_dict())
    narrow = narrowed(model, 48, batches(), attention_heads=4)
    assert type(narrow) is type(model) and not narrow.training
    for batch in batches(1):
        real = batch["attention_mask"] == 1
        expected, found = model(**batch)[0], narrow(**batch)[0]
        assert_agrees(*((found, expected) if kind == "sequence" else (found[real], expected[real])))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()), "the original was changed"


@pytest.mark.parametrize("size", [1, 7, 24])
def test_saved_and_loaded_without_fastmux(tmp_path, size):
    narrow = narrowed(plain(), size, batches())
    narrow.save_pretrained(tmp_path)
    loaded = HEADS["sequence"][0].from_pretrained(tmp_path)
    assert type(loaded) is transformers.BertForSequenceClassification
    assert loaded.config.intermediate_size == size
    inputs = next(batches())
    assert_agrees(loaded(**inputs).logits, narrow(**inputs).logits)


@pytest.mark.parametrize("join", ["positions", "rows", "pooled", "feed_forward"])
def test_a_narrow_model_can_be_joined(tmp_path, join):
    fast = joined(narrowed(plain(), 24, batches(), attention_heads=2), 2, join=join, joined_layers=[1, 3])
    fast.save_pretrained(tmp_path)
    loaded, inputs = HEADS["sequence"][0].from_pretrained(tmp_path), next(batches())
    assert {layer.intermediate.dense.out_features for layer in loaded.model.bert.encoder.layer} == {24}
    assert_agrees(loaded(**inputs).logits, fast(**inputs).logits)


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_give_the_nearest_output_that_they_can(heads, monkeypatch):
    monkeypatch.setattr("fastmux.models.narrowing._RIDGE", 0.0)
    model = plain(kind="none", layers=1).double()
    attention, given, seen = model.encoder.layer[0].attention, list(batches(padded=False)), []
    hook = attention.output.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    with torch.no_grad():
        for batch in given:
            model(**batch)
    hook.remove()
    a, dense = torch.cat(seen).detach(), attention.output.dense
    narrow = narrowed(model, 48, given, attention_heads=heads).encoder.layer[0].attention
    rows = attention.self.query.weight
    kept = torch.tensor([int((rows == row).all(1).nonzero()) for row in narrow.self.query.weight])
    assert kept.tolist() == [8 * head + k for head in (kept[::8] // 8).tolist() for k in range(8)]
    weight, bias = reference.narrow_output(dense.weight, dense.bias, a, kept)
    assert_agrees(narrow.output.dense.weight, weight)
    assert_agrees(narrow.output.dense.bias, bias)

    def error(kept):
        weight, bias = reference.narrow_output(dense.weight, dense.bias, a, kept)
        return float((a[:, kept] @ weight.T + bias - dense(a)).detach().square().mean())

    others = [
        torch.tensor([8 * head + k for head in chosen for k in range(8)])
        for chosen in itertools.combinations(range(4), heads)
    ]
    assert error(kept) <= sorted(map(error, others))[len(others) // 2]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_fewer_heads_is_saved_and_loaded(tmp_path, family, kind, attention):
    narrow = narrowed(plain(family, kind, attn_implementation=attention), 24, batches(), attention_heads=3)
    fast, inputs = joined(narrow, 1), next(batches())
    real = slice(None) if kind == "sequence" else inputs["attention_mask"] == 1
    assert_agrees(fast(**inputs).logits[real], narrow(**inputs).logits[real])
    fast.save_pretrained(tmp_path)
    loaded = HEADS[kind][0].from_pretrained(tmp_path)
    assert loaded.config.attention_heads == 3
    assert {p.shape for name, p in loaded.named_parameters() if "query.weight" in name} == {(24, 32)}
    assert_agrees(loaded(**inputs).logits, fast(**inputs).logits)


@pytest.mark.parametrize("heads", [0, 5, 2.0, True])
def test_numbers_of_heads_out_of_range_are_refused(heads):
    message = f"attention_heads is {heads}, expected an integer from 1 to 4"
    with pytest.raises(ValueError, match=message):
        narrowed(plain(), 48, batches(), attention_heads=heads)
    with pytest.raises(ValueError, match=message):
        fastmux.JoinedConfig(backbone_config=plain().config, attention_heads=heads)


@pytest.mark.parametrize("size", [0, 49, 2.0, True])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match=f"intermediate_size is {size}, expected an integer from 1 to 48"):
        narrowed(plain(), size, batches())


def test_no_text_is_refused():
    with pytest.raises(ValueError, match="batches is empty, expected at least one batch"):
        narrowed(plain(), 24, [])


def test_other_encoders_are_refused():
    config = transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=4, hidden_dim=48, vocab_size=60)
    with pytest.raises(ValueError, match=r"model is a 'distilbert' model; .* bert, camembert"):
        narrowed(AutoModel.from_config(config), 24, batches())
