"""Training that is compiled: the embedding stays one op, whose dropout each call draws anew."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from transformers import BertConfig

import fastmux
from fastmux import reference
from fastmux.functional import embedding_mux, instance_embeddings
from fastmux.testing import assert_agrees

G, N, L, D, P = 2, 3, 5, 16, 0.25


class Compiled:
    """A function, compiled as it is, and the graphs that became of it: forward and backward."""

    def __init__(self, function):
        torch.compiler.reset()
        self.graphs = []

        def kept(graph, inputs):
            self.graphs.append(graph)
            return make_boxed_func(graph)

        self.call = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=kept, bw_compiler=kept))

    def ops(self, graph):
        return Counter(str(node.target) for node in graph.graph.nodes)

    def largest(self, graph):
        return max(node.meta["val"].numel() for node in graph.graph.nodes if hasattr(node.meta.get("val"), "numel"))


@pytest.fixture
def inputs(triton_device):
    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, device=triton_device)

    ids = {name: torch.randint(0, 4, (G, N, L), device=triton_device) for name in ("input_ids", "position_ids")}
    tables = {"word_embeddings": tensor(4, D), "position_embeddings": tensor(4, D)}
    norm = {"ln_weight": 1 + 0.1 * tensor(D), "ln_bias": 0.1 * tensor(D), "eps": 1e-5}
    return ids | tables | norm


def test_the_compiled_op_is_the_formula_under_the_mask_that_was_drawn(inputs, triton_device):
    v = torch.randn(N, D, dtype=torch.float64, device=triton_device)
    with fastmux.backend("triton"):

        def mux(v, words):
            return embedding_mux(instance_vectors=v, dropout=P, **(inputs | {"word_embeddings": words}))

        compiled = Compiled(mux)
        leaves = [t.clone().requires_grad_() for t in (v, inputs["word_embeddings"])]
        torch.manual_seed(3)
        found = compiled.call(*leaves)
        torch.manual_seed(3)
        ones = instance_embeddings(inputs["input_ids"], torch.ones_like(inputs["word_embeddings"]), dropout=P)
        assert not torch.equal(compiled.call(*leaves), found), "the second call draws another mask"

    own = [t.detach().clone().requires_grad_() for t in leaves]
    embedded = reference.instance_embeddings(**(inputs | {"word_embeddings": own[1]}))
    expected = reference.hadamard_mux(embedded * ones, own[0])  # ones: 0 or 1 / (1 - P)
    assert_agrees(found, expected)
    upstream = torch.randn_like(found)
    theirs = torch.autograd.grad(expected, own, upstream)
    for a, b in zip(torch.autograd.grad(found, leaves, upstream), theirs, strict=True):
        assert_agrees(a, b)
    forward, backward = map(compiled.ops, compiled.graphs)  # the second call was not compiled anew
    assert forward["fastmux.embedding_mux_forward.default"] == forward["aten.randint.default"] == 1, forward
    assert backward["fastmux.embedding_mux_backward.default"] == 1, backward


@pytest.mark.parametrize("multiplexer", ["hadamard", "orthogonal"])
def test_a_model_that_is_compiled_for_training_keeps_the_op(multiplexer, triton_device):
    """With vectors nothing of the size of all instances' embeddings is made."""
    config = BertConfig(
        vocab_size=50, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=D,
        max_position_embeddings=40, hidden_dropout_prob=P, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = fastmux.TMux(config, 8, multiplexer=multiplexer, demultiplexer="unbind", add_pooling_layer=False)
    model = model.train().to(triton_device)
    ids = torch.randint(5, 50, (16, 30), device=triton_device)
    with fastmux.backend("triton"):
        compiled = Compiled(lambda ids: model.encode(ids).content)
        torch.manual_seed(0)
        found = compiled.call(ids)
        found.sum().backward()
        torch.manual_seed(0)
        assert_agrees(found, model.encode(ids).content)
    forward, backward = map(compiled.ops, compiled.graphs)
    assert forward["fastmux.embedding_mux_forward.default"] == 1, forward
    assert backward["fastmux.embedding_mux_backward.default"] == 1, backward
    if multiplexer == "hadamard":
        assert max(map(compiled.largest, compiled.graphs)) < ids.numel() * D
