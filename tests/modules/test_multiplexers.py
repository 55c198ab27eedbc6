"""Multiplexers and demultiplexers as modules of their own: plain arguments, no config, no Hugging Face."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from models import BERT, batch

import fastmux
from fastmux import reference
from fastmux.modules import DEMULTIPLEXERS, MULTIPLEXERS, HadamardMultiplexer, LinearMultiplexer, UnbindDemultiplexer
from fastmux.modules.multiplexer import whole_prefix
from fastmux.testing import assert_agrees, relative_error

THREE_LINES = """
import sys, torch
from fastmux.modules import HadamardMultiplexer
multiplexer = HadamardMultiplexer(num_instances=4, width=32)
assert multiplexer(torch.randn(2, 4, 7, 32)).shape == (2, 7, 32)
assert "transformers" not in sys.modules
"""


def test_three_lines_without_hugging_face():
    done = subprocess.run([sys.executable, "-c", THREE_LINES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def double(module):
    return module.double().eval()


@pytest.mark.parametrize("name", list(MULTIPLEXERS))
def test_a_prefix_is_multiplexed_as_what_follows_it(name):
    """Any route from tokens or embeddings, prefix included, is the multiplexer's own map of the whole."""
    mux = double(MULTIPLEXERS[name](3, 16))
    table, ids = torch.randn(9, 16).double(), torch.randint(9, (2, 3, 5))
    own, shared = torch.randn(3, 16).double(), torch.randn(4, 16).double()
    mask = torch.randint(2, (2, 3, 5))
    mask[..., 0] = 1
    whole = torch.cat([whole_prefix(own, shared).expand(2, -1, -1, -1), table[ids]], dim=2)
    expected = mux(whole, torch.nn.functional.pad(mask, (4, 0), value=1))
    tables, prefix = {"word_embeddings": table}, lambda: (own, shared)
    assert relative_error(mux.from_tokens(ids, tables, prefix, mask), expected) < 1e-12
    assert relative_error(mux.from_embeddings(table[ids], prefix, mask), expected) < 1e-12
    assert relative_error(mux.from_tokens(ids, tables, None, mask), mux(table[ids], mask)) < 1e-12


@pytest.mark.parametrize("name", list(DEMULTIPLEXERS))
def test_demultiplexers_take_plain_arguments(name):
    demux = DEMULTIPLEXERS[name](3, 16)
    h, p, v = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.randn(3, 16)
    instances = torch.randint(3, (2, 5))
    z = demux(h, p, v)
    assert z.shape == (2, 3, 5, 16)
    drawn = z.gather(1, instances[:, None, :, None].expand(-1, 1, -1, 16)).squeeze(1)
    assert_agrees(demux(h, p, v, instances), drawn)


class TestSigns:
    def test_the_product_undoes_itself(self):
        v = HadamardMultiplexer(4, 32, vectors="signs").transforms
        x = torch.randn(4, 32)
        assert torch.equal(v * (v * x), x) and 20 < (v > 0).sum() < 108
        assert set(HadamardMultiplexer(4, 32, vectors="signs", norm=2.0).transforms.unique().tolist()) == {-2.0, 2.0}

    def test_what_is_bound_alone_comes_back(self):
        """One instance of signs and "unbind" without its linear layer: the LayerNorm of x, and nothing lost."""
        mux, demux = HadamardMultiplexer(1, 32, vectors="signs").double(), UnbindDemultiplexer(1, 32, linear=False)
        x = torch.randn(2, 1, 5, 32).double()
        z = demux.double()(mux(x), None, mux.transforms)
        assert relative_error(z, torch.nn.functional.layer_norm(x, (32,), eps=1e-12)) < 1e-12

    def test_in_a_model(self, tmp_path):
        options = {"multiplexer_options": {"vectors": "signs"}, "demultiplexer": "unbind"}
        model, rows = fastmux.TMux(BERT, 3, **options).eval(), batch(6)
        vectors = model.multiplexer.transforms
        assert vectors.abs().unique().tolist() == [1.0]
        x = torch.randn(2, 3, 5, 16)
        assert_agrees(model.multiplexer(x), reference.hadamard_mux(x, vectors))
        model.save_pretrained(tmp_path)
        loaded = fastmux.TMux.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded.multiplexer.transforms, vectors) and loaded.multiplexer.vectors == "signs"
        assert_agrees(loaded(**rows).last_hidden_state, model(**rows).last_hidden_state)


class Doubled(HadamardMultiplexer):
    """A subclass with a map of its own: the fused pass of its base is not its own."""

    def forward(self, x, attention_mask=None):
        return 2 * super().forward(x)


def test_a_subclass_with_another_forward_is_not_taken_for_its_base():
    mux, plain = Doubled(3, 16), HadamardMultiplexer(3, 16)
    plain.load_state_dict(mux.state_dict())
    ids, prefix = torch.randint(9, (2, 3, 5)), lambda: (torch.ones(3, 16), torch.zeros(4, 16))
    tables = {"word_embeddings": torch.randn(9, 16)}
    doubled, single = (m.from_tokens(ids, tables, prefix) for m in (mux, plain))
    assert_agrees(doubled, 2 * single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"multiplexer_options": {"nrom": 2.0}},
            "has 'nrom'; .* 'hadamard' are .*; did you mean 'norm'",
        ),
        ({"multiplexer_options": {"norm": 0.0}}, "norm is 0.0, expected a number above 0"),
        ({"multiplexer_options": {"vectors": "sign"}}, "vectors is 'sign', expected one of 'gaussian', 'signs'"),
        (
            {"multiplexer": "binary", "multiplexer_options": {"overlap": 2}},
            "overlap is 2, expected a number from 0 to 1",
        ),
        ({"multiplexer": "attention", "multiplexer_options": {"num_heads": 3}}, "multiple of num_heads = 3"),
        ({"demultiplexer": "index", "demultiplexer_options": {"linear": False}}, "'index' are 'eps'"),
        ({"demultiplexer": "rsa", "demultiplexer_options": {"num_layers": 1}}, "num_layers is 1, expected at least 2"),
        ({"num_instances": 17, "multiplexer": "binary", "demultiplexer": "unbind"}, "num_instances is 17, expected at"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fastmux.TMux(BERT, **{"num_instances": 2} | options)


def test_options_of_a_class_of_ones_own(monkeypatch):
    for registry in (MULTIPLEXERS, DEMULTIPLEXERS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    @MULTIPLEXERS.register("scaled")
    class Scaled(LinearMultiplexer):
        def __init__(self, num_instances, width, *, factor=1.0, **options):
            super().__init__(num_instances, width, **options)
            self.factor = factor
            self._set_transforms(torch.empty(num_instances, width))

        def reset_parameters(self):
            torch.nn.init.constant_(self.transforms, self.factor)

        def forward(self, x, attention_mask=None):
            return (x * self.transforms[:, None]).sum(1)

    options = {"factor": 3.0, "learnable": True}
    model = fastmux.TMux(BERT, 2, multiplexer="scaled", multiplexer_options=options)
    assert isinstance(model.multiplexer.transforms, torch.nn.Parameter)
    assert model(**batch(4)).last_hidden_state.shape == (4, 7, 16) and bool((model.multiplexer.transforms == 3).all())
    with pytest.raises(ValueError, match=r"has 'fator'; .* are 'factor', 'learnable'; did you mean 'factor'"):
        fastmux.TMux(BERT, 2, multiplexer="scaled", multiplexer_options={"fator": 1})
