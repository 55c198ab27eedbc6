"""What is computed from weights is kept within `fixed_weights`, and only there."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from models import BERT
from torch import nn
from transformers import BertModel

import fastmux
from fastmux.functional import derived, fixed_weights
from fastmux.passes.runtimes.torch import predicting
from fastmux.testing import assert_agrees


class Counted:
    def __init__(self, weight: torch.Tensor):
        self.weight, self.calls = weight, 0

    def __call__(self) -> torch.Tensor:
        def double() -> torch.Tensor:
            self.calls += 1
            return 2 * self.weight

        return derived("doubled", self.weight, [self.weight], double)


@pytest.fixture
def counted():
    with torch.no_grad():
        yield Counted(torch.ones(3))


def test_once_within_the_block_and_anew_outside(counted):
    with fixed_weights():
        assert counted() is counted() and counted.calls == 1
        with fixed_weights():
            counted()
        assert counted.calls == 1
    counted(), counted()
    assert counted.calls == 3


def test_what_was_written_to_is_made_anew(counted):
    with fixed_weights():
        counted()
        counted.weight.mul_(3)
        assert counted().tolist() == [6.0] * 3 and counted.calls == 2


def test_gradients_are_never_kept_from():
    weight = torch.ones(3, requires_grad=True)
    with fixed_weights():
        with torch.no_grad():
            derived("doubled", weight, [weight], lambda: 2 * weight)
        for _ in range(2):  # a graph that was kept could not be gone through twice
            (gradient,) = torch.autograd.grad(derived("doubled", weight, [weight], lambda: 2 * weight).sum(), weight)
            assert gradient.tolist() == [2.0] * 3


def test_another_thread_keeps_nothing(counted):
    with fixed_weights():
        counted()
        with_gradients_off = torch.no_grad()(counted)
        thread = threading.Thread(target=with_gradients_off)
        thread.start()
        thread.join()
    assert counted.calls == 2


def test_nothing_outlives_its_owner():
    with torch.no_grad(), fixed_weights():
        counted = Counted(torch.ones(3))
        value = weakref.ref(counted())
        assert value() is not None
        del counted
        gc.collect()
        assert value() is None


def test_predicting_fixes_weights_and_ends(counted):
    model = nn.ModuleList([nn.Linear(1, 1)]).train()
    with pytest.raises(KeyError), predicting(model):
        with predicting(model):
            counted()
            assert not model[0].training
        assert counted() is counted() and counted.calls == 1
        raise KeyError
    counted()
    assert counted.calls == 2 and model[0].training


@pytest.mark.parametrize(
    ("multiplexer", "demultiplexer"), [("orthogonal", "unbind"), ("walsh_hadamard", "unbind"), ("hadamard", "index")]
)
def test_models_answer_as_without(multiplexer, demultiplexer):
    """Also after their weights were written to in place, against the promise."""
    torch.manual_seed(0)
    model = fastmux.TMux(BertModel(BERT), num_instances=3, multiplexer=multiplexer, demultiplexer=demultiplexer).eval()
    ids = torch.randint(5, 50, (6, 7))
    with torch.no_grad():
        for _ in range(2):
            expected = model(ids).last_hidden_state
            with predicting(model):
                found = [model(ids).last_hidden_state for _ in range(2)]
            for one in found:
                assert_agrees(one, expected)
            model.demultiplexer.dense.weight.mul_(1.1)
