"""`unbind_demux` beyond the common contract (tests/functional/test_op_contract.py)."""

from __future__ import annotations

import pytest
import torch

from fastmux import reference
from fastmux.functional import orthogonal_mux, unbind_demux
from fastmux.testing import assert_meets, normal, orthogonal, relative_error
from fastmux.testing import unbind_demux as draw
from fastmux.testing import unbind_demux_orthogonal as draw_orthogonal


def test_undoes_an_orthogonal_binding():
    """With one instance O^T O = I: without a linear layer, what comes out is the LayerNorm of what went in."""
    x, matrices, ones, zeros = normal(2, 1, 5, 12), orthogonal(1, 12), torch.ones(12).double(), torch.zeros(12).double()
    h = orthogonal_mux(x, matrices)
    z = unbind_demux(h, matrices, None, None, ones, zeros)
    assert relative_error(z, torch.nn.functional.layer_norm(x, (12,), eps=1e-12)) < 1e-10


def test_without_a_bias(backend, device):
    inputs = {k: t.to(device) for k, t in draw(2, 3, 4, 8).items()}
    without = unbind_demux(**(inputs | {"bias": None}))
    assert relative_error(without, unbind_demux(**(inputs | {"bias": torch.zeros_like(inputs["bias"])})).cpu()) < 1e-12


@pytest.mark.parametrize("length", [3, 9], ids=["fewer", "more"])
def test_matrices_with_fewer_and_more_positions_than_features(backend, device, length):
    """Below d rows the states are multiplied twice, above it the weights are multiplied first."""
    assert_meets(unbind_demux, reference.unbind_demux, draw_orthogonal(2, 3, length, 8), torch.float32, device)


def test_the_linear_layer_needs_no_unbound_states(triton_device):
    """(G, N, L, d) is kept once, for backward, and not a second time in front of the linear layer."""
    inputs = {k: t.to(triton_device).requires_grad_() for k, t in draw(2, 8, 16, 8).items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        unbind_demux(**inputs)
    assert saved.count(2 * 8 * 16 * 8) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transforms": torch.ones(3, 9)}, r"transforms has shape \(3, 9\), expected \(N, d\) with .*d = 8"),
        ({"transforms": torch.ones(3, 8, 9)}, r"transforms has shape \(3, 8, 9\), expected \(N, d, d\)"),
        ({"weight": torch.ones(8, 16)}, r"weight has shape \(8, 16\), expected \(d, d\)"),
        ({"weight": None}, "bias was given without a weight"),
        ({"head_weight": torch.ones(3, 9)}, r"head_weight has shape \(3, 9\), expected \(C, d\)"),
        ({"head_bias": torch.ones(3)}, "head_bias was given without head_weight"),
        ({"instances": torch.full((2, 4), -1)}, "instances holds -1, expected values from 0 to 2"),
    ],
)
def test_bad_input(change, message):
    inputs = {k: t.float() for k, t in draw(2, 3, 4, 8).items()}
    with pytest.raises(ValueError, match=message):
        unbind_demux(**(inputs | change))


@pytest.mark.parametrize("draws", [draw, draw_orthogonal], ids=["vectors", "matrices"])
def test_instance_minus_one_is_not_the_last_one(draws):
    """Where a graph is traced nobody looks at values: the op that reads the transforms refuses them."""
    inputs = draws(2, 3, 4, 8) | {"instances": torch.full((2, 4), -1)}
    with pytest.raises(ValueError, match="instances holds -1, expected values from 0 to 2"):
        unbind_demux(**inputs)
    compiled = torch.compile(lambda **tensors: unbind_demux(**tensors), fullgraph=True, backend="aot_eager")
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        compiled(**inputs)
