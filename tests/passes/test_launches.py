"""A pass of a T-MUX launches few more kernels than one of the plain encoder: in a small pass, launches are the time.

Nothing is launched here. On the meta device all ops of a pass are seen, and each is a kernel on a GPU, but for those
that only look at memory in another way, or ask for some; a few are two.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, BertConfig

import fastmux
from fastmux.passes.runtimes.torch import TorchRuntime

BERT = BertConfig(
    vocab_size=50,
    max_position_embeddings=40,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=3,
)
PLAIN = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
TMUX = {"sequence": fastmux.TMuxForSequenceClassification, "token": fastmux.TMuxForTokenClassification}

ATTENTION, DROPOUT = torch.ops.aten.scaled_dot_product_attention.default, torch.ops.aten.dropout.default
FREE = ("aten.empty", "aten.new_empty", "aten.detach", "aten._unsafe_view")
#: A fill and a copy; a copy and a fill.
TWICE = ("aten.constant_pad_nd", "aten.masked_fill.")


class Launches(TorchDispatchMode):
    """Counts kernels by the names of their ops."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is ATTENTION:  # one kernel, which lays heads side by side for the product behind it
            self.seen[str(func)] += 1
            return func(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)
        if func is DROPOUT and not args[2]:
            return args[0]
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        name = str(func)
        if not is_view and not name.startswith(FREE):
            self.seen[name] += 2 if name.startswith(TWICE) else 1
        return func(*args, **kwargs)


def launches(model: torch.nn.Module, padded: bool) -> Counter:
    runtime = TorchRuntime(model.eval(), 0, takes_types=False)
    given = {"input_ids": torch.ones(8, 16, dtype=torch.long, device="meta")}
    if padded:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    with fastmux.backend("triton"), runtime.ready(), torch.inference_mode():
        runtime._logits(given)  # what depends on weights alone is held from now on
        with Launches() as counted:
            runtime._logits(given)
    return counted.seen


#: How many kernels more than the plain encoder, whose rows have no padding; and where some have.
MORE = {
    ("unbind", "sequence"): (4, 6),
    ("unbind", "token"): (1, 2),
    ("index", "sequence"): (3, 5),
    ("index", "token"): (4, 6),
    ("key", "sequence"): (4, 6),
    ("key", "token"): (1, 2),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("demultiplexer", "labels"), MORE)
def test_a_multiplexed_pass_launches_at_most_six_kernels_more(demultiplexer, labels, padded):
    with torch.device("meta"):
        plain = launches(PLAIN[labels].from_config(BERT), padded)
        own = launches(TMUX[labels].from_backbone(BERT, 4, demultiplexer=demultiplexer), padded)
    found = own.total() - plain.total()
    assert found == MORE[demultiplexer, labels][padded] and found <= 6, (
        f"{own.total()} kernels, plain {plain.total()}; more: {dict(own - plain)}; fewer: {dict(plain - own)}"
    )


def test_kernels_are_counted():
    x = torch.ones(3, 4, device="meta")
    with Launches() as counted:
        y = torch.nn.functional.linear(x, x, x[:, 0]).t()[:2]
        torch.nn.functional.pad(y + 1, (1, 0)).softmax(-1)
    assert counted.seen.total() == 5, counted.seen
