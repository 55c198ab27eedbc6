"""Others' code is measured as the op that it stands beside."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from bench import harness, peers
from bench.ops import listed
from bench.ops.listed import OPS
from fastmux import reference
from fastmux.testing import assert_agrees


def test_formulas_written_for_the_benchmarks_are_the_specification():
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    matrices, signs = torch.randn(3, 8, 8, dtype=torch.float64), torch.randint(0, 2, (3, 8)) * 2 - 1
    expected = reference.orthogonal_mux(x, matrices, 1.0)
    assert_agrees(listed.product(x, matrices), expected)
    inputs = {"x": x, "inner_signs": signs, "outer_signs": signs.flip(0)}
    assert_agrees(listed.walsh_hadamard_written_out(**inputs), reference.walsh_hadamard_mux(**inputs))


@pytest.mark.parametrize(
    ("op", "load", "sizes"),
    [
        (OPS["linear_cross_entropy"], peers.liger_linear_cross_entropy, {"R": 5, "V": 7, "d": 8}),
        (OPS["index_demux"], peers.liger_index_demux, {"G": 2, "N": 3, "L": 4, "d": 8}),
        (OPS["embedding_mux"], peers.liger_embedding_mux, {"G": 2, "N": 3, "L": 4, "d": 8, "V": 11}),
        (OPS["walsh_hadamard_mux"], peers.fast_hadamard_transform, {"G": 2, "N": 3, "L": 4, "d": 8}),
    ],
    ids=["cross entropy", "index_demux", "embedding_mux", "walsh_hadamard"],
)
def test_what_is_built_around_a_package_is_the_op(eager, monkeypatch, op, load, sizes):
    """Plain PyTorch stands for the packages, which need a GPU."""
    liger, hadamard = ModuleType("liger_kernel.transformers.functional"), ModuleType("fast_hadamard_transform")
    liger.liger_layer_norm = lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    liger.liger_fused_linear_cross_entropy = lambda x, weight, target, bias: F.cross_entropy(
        F.linear(x, weight, bias), target
    )
    hadamard.hadamard_transform = lambda x, scale: x @ reference.hadamard_matrix(x.shape[-1]).to(x) * scale
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (liger, hadamard):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(op.peers, "peer", load())
    report = harness.Case(op, tuple(sizes.items()), torch.float32, "forward+backward").run(seconds=0)
    assert not report.refused and "peer" in [row["implementation"] for row in report.rows]


def test_a_transform_of_another_order_is_declined(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_hadamard_transform", ModuleType("fast_hadamard_transform"))
    sys.modules["fast_hadamard_transform"].hadamard_transform = None
    with pytest.raises(NotImplementedError, match="d = 12 is no power of two"):
        peers.fast_hadamard_transform()(torch.ones(1, 2, 1, 12), torch.ones(2, 12), torch.ones(2, 12))


def test_only_what_is_installed_on_a_gpu_is_measured(monkeypatch):
    def missing():
        raise ModuleNotFoundError

    monkeypatch.setattr(peers, "default_device", lambda: torch.device("cpu"))
    assert peers.installed(there=lambda: abs) == {}
    monkeypatch.setattr(peers, "default_device", lambda: torch.device("cuda"))
    assert peers.installed(there=lambda: abs, missing=missing) == {"there": abs}
