"""A pass on a GPU waits for nothing: no op of it reads a value on the host, and no constant is copied to the device.

Without a GPU the model lies on the meta device, which has shapes and no values: an op that reads one raises, and copies
from the CPU are seen. What is left out of masks there is compared on a CPU.
"""

from __future__ import annotations

from functools import partial

import classifiers
import numpy as np
import pytest
import torch
from graphs import FakeGraphs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, ElectraConfig, RobertaConfig

import fastmux
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.models.alignment import padding_before
from fastmux.passes import masks
from fastmux.passes.packing import PackedRows
from fastmux.passes.runtimes import torch as torch_runtime
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens
from fastmux.testing import assert_agrees

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
config, tokenizer, models = classifiers.config, classifiers.tokenizer, classifiers.models


class Copies(TorchDispatchMode):
    """The ops that move a tensor between the host and the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
        # Ops that take a scalar as a tensor of no dimensions copy nothing.
        moved = [
            t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.device.type == "cpu" and t.dim()
        ]
        if len(devices) > 1 and moved:
            self.seen.append(func)
        return out


def _bert(kind=BertConfig, **options):
    return kind(vocab_size=50, max_position_embeddings=40, **SIZES, **options)


def _plain(kind):
    return AutoModelForSequenceClassification.from_config(_bert(kind, num_labels=3))


def _tmux(made, demultiplexer, **options):
    return made.from_backbone(_bert(), 4, demultiplexer=demultiplexer, num_labels=3, **options)


def _joined(join):
    return fastmux.JoinedForSequenceClassification.from_backbone(_plain(BertConfig), 2, join=join)


#: What makes each kind of model, by name; where the caller's device is.
KINDS = {name: partial(_plain, kind) for name, kind in (("bert", BertConfig), ("roberta", RobertaConfig))}
KINDS["electra"] = partial(_plain, ElectraConfig)
for demultiplexer in ("unbind", "index", "key"):
    KINDS[demultiplexer] = partial(_tmux, fastmux.TMuxForSequenceClassification, demultiplexer)
    KINDS[f"{demultiplexer}, tokens"] = partial(_tmux, fastmux.TMuxForTokenClassification, demultiplexer)
    KINDS[f"{demultiplexer}, mean"] = partial(
        _tmux, fastmux.TMuxForSequenceClassification, demultiplexer, sequence_summary="mean"
    )
for join in ("rows", "positions", "pooled", "feed_forward"):
    KINDS[f"joined {join}"] = partial(_joined, join)
KINDS["embeds"] = lambda: EmbeddingModel(BertModel(_bert()), EmbeddingConfig("mean"))


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


def batch(padded: bool) -> dict[str, np.ndarray]:
    inside = np.ones((8, 16), np.int64)
    if padded:
        inside[1:, 11:] = 0
    return {"input_ids": np.full((8, 16), 7), "attention_mask": inside}


@pytest.mark.parametrize("padded", [False, True])
def test_no_value_is_read_and_nothing_is_copied(name, padded, monkeypatch):
    with torch.device("meta"):
        model = KINDS[name]().eval()
    runtime, watch = TorchRuntime(model, 0, takes_types=False), Copies()
    called = model.forward

    def watched(*args, **given):
        # The inputs themselves are copied before.
        assert all(t.is_meta for t in tree_leaves((args, given)) if isinstance(t, torch.Tensor))
        assert padded or "attention_mask" not in given
        with watch:
            return called(*args, **given)

    monkeypatch.setattr(model, "forward", watched)
    monkeypatch.setattr(torch_runtime, "_moved", lambda array, device: torch.from_numpy(array).to(device))
    with fastmux.backend("triton"), runtime.ready():
        runtime.start(batch(padded))
    assert watch.seen == []


def test_packed_rows_wait_for_nothing(name, monkeypatch):
    with torch.device("meta"):
        model = KINDS[name]().eval()
    runtime, watch = TorchRuntime(model.bfloat16(), 0, takes_types=False, packed=True), Copies()
    form, moved = runtime._packed, []
    answers = form.answers

    def watched(given, rows):
        assert all(t.is_meta for t in given.values())
        with watch:
            return answers(given, rows)

    monkeypatch.setattr(form, "answers", watched)
    monkeypatch.setattr(
        torch_runtime, "_moved", lambda array, device: moved.append(array) or torch.from_numpy(array).to(device)
    )
    tokens = Tokens.of_rows([[7] * length for length in (16, 11, 3, 3, 9, 1, 2, 2)])
    slots = np.arange(8).reshape(-1, runtime.num_instances)
    with fastmux.backend("triton"), runtime.ready():
        runtime.start_packed(PackedRows.of(tokens, slots, 0))
    assert watch.seen == [] and len(moved) == 1


@pytest.mark.parametrize(("kind", "length"), [("bert", 13), ("unbind", 16), ("index, tokens", 13), ("embeds", 16)])
def test_captured_passes_copy_once_to_the_device(kind, length):
    """Eager, at first, and when their graph is launched."""
    with torch.device("meta"):
        model = KINDS[kind]().eval()
    graphs = FakeGraphs()
    runtime = TorchRuntime(model, 0, takes_types=False, graphs=graphs, room=40)
    inputs = {"input_ids": np.full((8, length), 7), "attention_mask": np.ones((8, length), np.int64)}
    with fastmux.backend("triton"), runtime.ready():
        for launches in range(3):
            with Copies() as watch:
                runtime.start(inputs)
            assert len(graphs.launched) == launches and len(watch.seen) == 1, watch.seen


def test_a_look_at_a_mask_would_be_seen():
    with torch.device("meta"):
        model = KINDS["bert"]().eval()
        given = {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    with pytest.raises(RuntimeError, match="meta"):
        model(**given)


def test_answers_are_those_of_masks_that_are_looked_at(name, monkeypatch):
    torch.manual_seed(0)
    model = KINDS[name]().double().eval()
    runtime = TorchRuntime(model, 0, takes_types=False)
    draw = np.random.default_rng(0)
    for padded in (False, True):
        inputs = batch(padded) | {"input_ids": draw.integers(5, 50, (8, 16))}
        with runtime.ready():
            expected = runtime.start(inputs)()
            with monkeypatch.context() as patched:
                patched.setattr(masks, "looks_are_free", lambda mask: False)
                found = runtime.start(inputs)()
        assert_agrees(torch.tensor(found), torch.tensor(expected))


def test_a_runtime_says_that_rows_begin_with_their_first_token(models):
    seen = []
    runtime = TorchRuntime(models["tmux"], 0)
    models["tmux"].register_forward_pre_hook(lambda module, given: seen.append(masks.are_right_padded()))
    runtime.start(batch(True))
    assert seen == [True] and not masks.are_right_padded()
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert padding_before(left).tolist() == [1, 0]
    with masks.right_padded():
        assert padding_before(left) is None
