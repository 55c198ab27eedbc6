"""One model in every way that a device runs it, beside the same model in float64 on a CPU.

`bench/everything.py` runs this file on a device. Without a GPU the model runs on the CPU, and nothing is captured.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from graphs import FakeGraphs
from thoroughness import ALL
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

import fastmux
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.captured import CudaGraphs
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
TASKS = {"sequence": fastmux.TMuxForSequenceClassification, "token": fastmux.TMuxForTokenClassification}
ROWS, LENGTH, WORDS = 8, 16, 50


CONFIG = BertConfig(
    vocab_size=WORDS,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture(params=[(t, d) for t in TASKS for d in ("index", "unbind")], ids="-".join)
def exact(request):
    task, demultiplexer = request.param
    options = {"demultiplexer": demultiplexer, "num_labels": 3, "retrieval_loss_weight": 0.0}
    return TASKS[task].from_backbone(CONFIG, 4, **options).double().eval()


@pytest.fixture
def ids():
    return torch.randint(WORDS, (ROWS, LENGTH))


def captured(model, ids):
    """The logits of a CUDA graph's second replay, on ids that it was not captured with."""
    static = torch.zeros_like(ids)
    launch, logits = CudaGraphs().capture(lambda: model(input_ids=static).logits)
    launch()
    static.copy_(ids)
    launch()
    return logits


def autocast(model, ids):
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return model(input_ids=ids).logits


#: The logits of a model, and the error that they may have beside the largest of them.
WAYS = {
    "eager": (lambda model, ids: model(input_ids=ids).logits, 1e-4),
    "compiled": (lambda model, ids: torch.compile(model)(input_ids=ids).logits, 1e-4),
    "captured": (captured, 1e-4),
    "autocast": (autocast, 0.05),
}


@pytest.mark.parametrize(
    "way",
    [
        "eager",
        pytest.param("compiled", marks=pytest.mark.skipif(not (GPU or ALL), reason="takes long on a CPU")),
        pytest.param("captured", marks=pytest.mark.gpu),
        "autocast",
    ],
)
def test_logits(exact, ids, way):
    run, tolerance = WAYS[way]
    model = copy.deepcopy(exact).to(DEVICE, torch.float32)
    with torch.inference_mode():
        expected = exact(input_ids=ids).logits
        logits = run(model, ids.to(DEVICE)).cpu().double()
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def joined(join):
    wide = BertConfig(**CONFIG.to_dict() | {"num_hidden_layers": 4})
    return fastmux.JoinedForSequenceClassification.from_backbone(BertForSequenceClassification(wide), 2, join=join)


#: Models whose rows or groups lie end to end, on a GPU in half precision.
PACKED = {
    f"{task}, {name}": partial(made.from_backbone, CONFIG, 4, demultiplexer=name, num_labels=3)
    for task, made in TASKS.items()
    for name in ("index", "unbind")
}
PACKED |= {
    "plain": lambda: BertForTokenClassification(CONFIG),
    "rows": partial(joined, "rows"),
    "pooled": partial(joined, "pooled"),
    "embeds": lambda: EmbeddingModel(BertModel(CONFIG), EmbeddingConfig("mean")),
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_rows(kind):
    exact, draw = PACKED[kind]().double().eval(), np.random.default_rng(0)
    tokens = Tokens.of_rows([draw.integers(1, WORDS, length).tolist() for length in draw.integers(1, 50, 40)])
    runtime = TorchRuntime(copy.deepcopy(exact).to(DEVICE, torch.bfloat16), 0, packed=None if GPU else True)
    if not runtime.layout.packed:
        pytest.skip("this GPU does not attend to sequences of several lengths")
    engine = Engine(runtime, 500)
    plan = engine.plan(tokens.lengths)
    expected = Engine(TorchRuntime(exact, 0), 500).run(tokens, plan).logits
    error = np.abs(engine.run(tokens, plan).logits - expected).max()
    assert error <= 0.05 * np.abs(expected).max()


def answers(exact, engine):
    """The engine's answers to rows of several lengths, the third time, and those that they should be."""
    draw = np.random.default_rng(0)
    tokens = Tokens.of_rows([draw.integers(1, WORDS, length).tolist() for length in draw.integers(1, 50, 40)])
    plan = engine.plan(tokens.lengths)
    *_, found = [engine.run(tokens, plan).logits for _ in range(3)]
    return found, Engine(TorchRuntime(exact, 0), 500).run(tokens, plan).logits


def test_captured_passes(exact):
    graphs = CudaGraphs() if GPU else FakeGraphs()
    runtime = TorchRuntime(copy.deepcopy(exact).to(DEVICE, torch.float32), 0, graphs=graphs, room=60)
    found, expected = answers(exact, Engine(runtime, 500))
    assert len(runtime._captured._captured) > 1
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.gpu
def test_what_waits_for_the_device_runs_eagerly(exact, caplog):
    model = copy.deepcopy(exact).to(DEVICE, torch.float32)
    model.register_forward_hook(lambda module, given, output: print(output.logits.sum().item()))
    found, expected = answers(exact, Engine(TorchRuntime(model, 0, graphs=CudaGraphs(), room=60), 500))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert sum("cannot be captured" in message for message in caplog.messages) == 1


def test_a_step_of_training(exact, ids):
    model = copy.deepcopy(exact).to(DEVICE, torch.float32).train()
    with torch.no_grad():
        labels = exact(input_ids=ids).logits.argmin(-1)  # so that there is something to learn
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids.to(DEVICE), labels=labels.to(DEVICE)).loss
        losses.append(loss.item())
        loss.backward()
        if len(losses) == 1:
            exact(input_ids=ids, labels=labels).loss.backward()
            for (name, ours), gold in zip(model.named_parameters(), exact.parameters(), strict=True):
                assert (ours.grad is None) == (gold.grad is None), name
                if gold.grad is not None:
                    error = (ours.grad.cpu().double() - gold.grad).abs().max()
                    assert error <= 1e-3 * gold.grad.abs().max() + 1e-7, name
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
