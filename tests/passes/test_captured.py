"""Small passes are filled up to one of a few sizes, whose graphs read and write tensors that stay where they are."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import classifiers
import numpy as np
import pytest
import torch
from graphs import FakeGraphs
from transformers import BertModel

import fastmux
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.functional import derived
from fastmux.functional.derived import Held, fixed_weights
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes import captured
from fastmux.passes.runtimes.captured import CAPTURED_POSITIONS
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens
from fastmux.testing import assert_agrees

config, tokenizer, models = classifiers.config, classifiers.tokenizer, classifiers.models


def rows(count: int, longest: int, seed: int = 0, types: bool = True) -> Tokens:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest + 1, count)
    ids = draw.integers(5, 45, int(lengths.sum())).astype(np.int32)
    return Tokens(ids, lengths, draw.integers(0, 2, len(ids)).astype(np.int8) if types else None)


def runtime_of(model, graphs=None, **options):
    return TorchRuntime(model, 0, graphs=graphs, room=32, **options)


@pytest.fixture(params=["plain", "tmux", "index", "joined", "tagger", "tmux_tagger", "embeds"])
def model(request, models, config):
    if request.param == "embeds":
        return EmbeddingModel(BertModel(config), EmbeddingConfig("mean")).double().eval()
    return copy.deepcopy(models[request.param]).double()


def test_answers_are_those_of_eager_passes(model):
    """Also where several passes are begun before the first is waited for: each has its own copy."""
    graphs, tokens, batch_tokens = FakeGraphs(), rows(41, 29), 100
    expected = Engine(runtime_of(model), batch_tokens).run(tokens).logits
    engine = Engine(runtime_of(model, graphs), batch_tokens)
    for _ in range(3):
        assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
    passes = len(engine.plan(tokens.lengths))
    # Each size twice at most before it is captured, and then never again.
    assert len(graphs.results) <= len(graphs.launched) and len(set(graphs.launched)) == len(graphs.results) > 0
    assert 3 * passes - len(graphs.results) <= len(graphs.launched), (passes, graphs.launched)


def test_a_size_is_captured_when_it_is_met_again(models):
    graphs = FakeGraphs()
    runtime = runtime_of(models["tmux"], graphs)
    seen = []
    runtime.model.register_forward_pre_hook(
        lambda module, args, given: seen.append((*given["input_ids"].shape, "attention_mask" in given)),
        with_kwargs=True,
    )

    def answered(count, length, padded):
        mask = np.ones((count, length), np.int64)
        mask[0, length - padded :] = 0
        with runtime.ready():
            logits = runtime.start({"input_ids": np.full((count, length), 7), "attention_mask": mask})()
        assert logits.shape == (count, 3)

    try:
        answered(12, 13, 0)
        assert seen == [(16, 16, True)] and not graphs.results, "filled up, and run as it is"
        answered(16, 11, 3)
        assert len(graphs.results) == len(graphs.launched) == 1, "another pass of that size"
        answered(4, 16, 0)
        assert seen[-1] == (4, 16, False), "no mask where nothing is padded"
        answered(4, 16, 2)
        assert seen[-1] == (4, 16, True)
        answered(20, 17, 0)
        assert seen[-1] == (32, 24, True)
        answered(4, 30, 0)
        assert seen[-1] == (4, 32, True), "as many as there is room for"
        assert len(graphs.results) == 1
    finally:
        runtime.model._forward_pre_hooks.clear()
        runtime.model._forward_pre_hooks_with_kwargs.clear()


def test_large_passes_are_left_alone(models):
    graphs = FakeGraphs()
    passes = runtime_of(models["plain"], graphs)._captured

    def size(count, length):
        shape = (count, length)
        return passes.size_of({"input_ids": np.ones(shape), "attention_mask": np.ones(shape)})

    assert size(CAPTURED_POSITIONS // 32, 32).groups == CAPTURED_POSITIONS // 32
    assert size(CAPTURED_POSITIONS // 32 + 1, 32) is None and size(0, 32) is None
    assert size(1, 33) is None, "more positions than there is room for"


def test_there_are_few_sizes(models):
    runtime = TorchRuntime(models["plain"], 0, graphs=FakeGraphs(), room=512)
    shapes = {(rows, length) for rows in (1, 2, 3, 7, 15, 30, 60, 120, 250, 512) for length in range(1, 513)}
    sizes = {
        runtime._captured.size_of({"input_ids": np.empty(shape), "attention_mask": np.ones(shape)}) for shape in shapes
    } - {None}
    lengths = sorted({size.length for size in sizes})
    assert lengths == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert {size.groups for size in sizes} == {2**power for power in range(10)}
    # Twice: with a mask, and without one where a row is as long as the size.
    assert len(sizes) <= 2 * 80, len(sizes)


@pytest.mark.parametrize("padded_length", [None, 20])
def test_rows_of_a_model_that_attends_to_padding_keep_their_length(padded_length, config):
    conventions = {"attend_padding": True, "padded_length": padded_length}
    model = fastmux.TMuxForSequenceClassification.from_backbone(config, 4, num_labels=3, conventions=conventions)
    model, graphs, tokens = model.double().eval(), FakeGraphs(), rows(30, 18, types=False)
    expected = Engine(runtime_of(model), 200).run(tokens).logits
    engine = Engine(runtime_of(model, graphs), 200)
    for _ in range(2):
        assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
    assert graphs.launched
    if padded_length is not None:
        runtime = runtime_of(model, graphs := FakeGraphs())
        runtime.prepare(32, 400)
        assert {size.length for size in runtime._captured._captured} == {20}


def test_rows_of_an_encoder_of_ones_own_keep_their_length():
    """It may read padding from its end, as an LSTM does, whatever the mask says."""

    class Tagger(torch.nn.LSTM):
        def forward(self, inputs_embeds, attention_mask=None):
            return super().forward(inputs_embeds)[0]

    lstm = Tagger(16, 8, batch_first=True, bidirectional=True)
    encoder = fastmux.ModuleEncoder(lstm, torch.nn.Embedding(50, 16))
    model = fastmux.TMuxForTokenClassification.from_backbone(encoder, 2, num_labels=3).double().eval()
    graphs, tokens = FakeGraphs(), rows(20, 13, types=False)
    expected = Engine(runtime_of(model, takes_types=False), 60).run(tokens).logits
    engine = Engine(runtime_of(model, graphs, takes_types=False), 60)
    for _ in range(2):
        assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
    assert graphs.launched


def test_a_model_that_cannot_be_captured_runs_eagerly_and_says_so_once(models, caplog):
    model, tokens = copy.deepcopy(models["tmux"]).double(), rows(61, 29)
    expected = Engine(runtime_of(model), 100).run(tokens).logits
    engine = Engine(runtime_of(model, FakeGraphs(works=False)), 100)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
        engine.runtime.prepare(32, 100)
    (said,) = caplog.messages
    assert said == (
        "the model cannot be captured and runs eagerly: RuntimeError: operation not permitted when stream is capturing"
    )


def test_what_was_prepared_takes_every_pass_and_nothing_more_is_captured(models):
    model, graphs, tokens = copy.deepcopy(models["tmux"]).double(), FakeGraphs(), rows(61, 29)
    expected = Engine(runtime_of(model), 100).run(tokens).logits
    engine = Engine(runtime_of(model, graphs), 100)
    with engine.runtime.ready():
        engine.runtime.prepare(29, 100)
    known = len(graphs.results)
    for asked in (tokens, replace(tokens, types=None)):
        graphs.launched.clear()
        logits = engine.run(asked).logits
        assert len(graphs.launched) == len(engine.plan(tokens.lengths)) and len(graphs.results) == known
    assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
    assert not np.allclose(logits, expected), "types are told apart"


def test_graphs_are_forgotten_when_weights_change(models, config):
    model = fastmux.TMuxForSequenceClassification.from_backbone(config, 4, num_labels=3, demultiplexer="index")
    model, graphs, tokens = model.double().eval(), FakeGraphs(), rows(40, 20)
    engine = Engine(runtime_of(model, graphs), 200)
    for change in (
        lambda: None,
        lambda: model.tmux.prefix_tokens.weight.mul_(3.0),
        lambda: setattr(model.classifier, "weight", torch.nn.Parameter(model.classifier.weight * 2)),
    ):
        known = len(graphs.results)
        with torch.no_grad():
            change()
        expected = Engine(runtime_of(model), 200).run(tokens).logits
        for _ in range(2):
            assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
        assert len(graphs.results) > known


def test_a_graph_reads_what_is_held_and_holds_nothing_itself(monkeypatch):
    weight, calls, held = torch.ones(2), [], Held()

    def doubled():
        with torch.no_grad():
            return derived("doubled", weight, [weight], lambda: calls.append(1) or 2 * weight)

    def capturing(yes):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: yes)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: yes)

    with fixed_weights():
        doubled()
        capturing(True)  # by somebody who keeps no Held: the graph may outlive the block
        doubled()
        doubled()
        assert len(calls) == 3
        with fixed_weights(held):
            doubled()
            doubled()
            assert len(calls) == 5, "what a graph computes lies in its own memory"
            capturing(False)
            value = doubled()
            capturing(True)
            assert doubled() is value and len(calls) == 6
            capturing(False)
    with fixed_weights(held):
        assert doubled() is value and len(calls) == 6
        weight.mul_(2)
        assert doubled().tolist() == [4.0, 4.0]


def test_what_depends_on_weights_alone_is_held_once_for_all_graphs(models):
    """47 MB of stacked weights, of a base encoder with N = 40; here an index prefix."""
    graphs = FakeGraphs()
    runtime = runtime_of(copy.deepcopy(models["index"]).double(), graphs)
    with runtime.ready():
        runtime.prepare(32, 400)
    held = [name for values in runtime._captured._held.by_owner.values() for name, *_ in values]
    assert len(graphs.results) > 3 and held.count("prefix on cpu") == 1, held


@pytest.mark.parametrize("name", ["plain", "tmux", "tmux_tagger"])
def test_large_passes_are_packed_and_small_ones_captured(name, models, monkeypatch):
    model, tokens, packed = copy.deepcopy(models[name]).double(), rows(61, 29), []
    start = TorchRuntime.start_packed
    monkeypatch.setattr(TorchRuntime, "start_packed", lambda self, rows: packed.append(rows) or start(self, rows))
    expected = Engine(runtime_of(model), 400).run(tokens).logits
    for limit, kinds in ((CAPTURED_POSITIONS, (True, False)), (150, (True, True)), (0, (False, True))):
        monkeypatch.setattr(captured, "CAPTURED_POSITIONS", limit)
        packed.clear()
        engine = Engine(runtime_of(model, graphs := FakeGraphs(), packed=True), 400)
        for _ in range(3):
            assert_agrees(torch.tensor(engine.run(tokens).logits), torch.tensor(expected))
            engine.run(tokens.select(np.arange(4)))
        assert (bool(graphs.launched), bool(packed)) == kinds, limit
