"""The benchmark of shared feed-forward passes: who shares, what a layer then computes, and what it spares."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from bench import same_tokens
from bench.same_tokens import SharedFeedForward, groups_of
from fastmux.testing import assert_agrees

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=12, initializer_range=0.5, **SIZES)).eval().double()


def padded_batch(rows=5, length=9, vocab_size=12):
    ids = torch.randint(1, vocab_size, (rows, length))
    keep = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    return ids * keep, keep.long()


@pytest.mark.parametrize("copies", [1, 2, 3, 50])
def test_positions_of_one_token_share_in_the_order_of_their_places(copies):
    ids, keep = padded_batch()
    groups = groups_of(ids, keep, copies).view(ids.shape)
    members, alone = defaultdict(list), []
    for place in range(ids.shape[1]):
        for row in range(len(ids)):
            if keep[row, place]:
                members[int(ids[row, place])].append(int(groups[row, place]))
            else:
                alone.append(int(groups[row, place]))
    seen = list(alone)
    for found in members.values():
        runs = [found[k : k + copies] for k in range(0, len(found), copies)]
        assert all(len(set(run)) == 1 for run in runs)
        seen += [run[0] for run in runs]
    assert sorted(seen) == list(range(len(seen))), "a group holds one token, and padding has groups of its own"


@pytest.mark.parametrize("layers", [[0], [0, 2], [0, 1, 2]])
def test_a_layer_is_what_its_formula_says(model, layers):
    ids, keep = padded_batch()
    shared = SharedFeedForward(model, 2, layers)
    groups = groups_of(ids, keep, 2)
    bert = model.bert
    with torch.no_grad():
        states = bert.embeddings(input_ids=ids)
        for number, layer in enumerate(bert.encoder.layer):
            attended = layer.attention(states, keep[:, None, None] != 0)[0]
            if number in layers:
                flat = attended.flatten(0, 1)
                means = torch.stack([flat[groups == own].mean(0) for own in groups])
                change = layer.output.dense(layer.intermediate(means)).view(attended.shape)
                states = layer.output.LayerNorm(attended + change)
            else:
                states = layer.feed_forward_chunk(attended)
        gold = model.classifier(bert.pooler(states))
        assert_agrees(shared.model(input_ids=ids, attention_mask=keep).logits, gold)


def test_alone_each_row_answers_as_the_original_and_nothing_is_spared(model):
    ids, keep = padded_batch()
    shared = SharedFeedForward(model, 1, range(3))
    with torch.no_grad():
        found = shared.model(input_ids=ids, attention_mask=keep).logits
        assert_agrees(found, model(input_ids=ids, attention_mask=keep).logits)
    assert shared.spared == 0


def test_the_share_that_is_spared(model):
    shared = SharedFeedForward(model, 2, [0])
    ids = torch.tensor([[1, 7, 7, 7], [1, 7, 3, 0]])
    with torch.no_grad():
        shared.model(input_ids=ids, attention_mask=ids != 0)
    assert shared.spared == pytest.approx(1 - 4 / 7)  # a pair of 1s, two pairs of 7s, and a 3


def test_a_table_of_what_is_spared_and_what_is_kept(saved_classifier, tmp_path, capsys):
    model, rows = saved_classifier
    options = ["--steps", "2", "--batch", "16", "--copies", "2", "--output", str(tmp_path / "found.json")]
    (found,) = same_tokens.main([f"{model}={rows}:text", *options])
    assert [entry["name"] for entry in found["entries"]] == ["2 copies, all layers", "2 copies, first half"]
    for entry in found["entries"]:
        assert 0 < entry["spared"] < 0.5 and entry["speed_bound"] > 1 and 0 < entry["agreement"] <= 1
    assert found["entries"][1]["spared"] == pytest.approx(found["entries"][0]["spared"] / 3, abs=0.02)
    assert "passes spared" in capsys.readouterr().out and (tmp_path / "found.json").is_file()
