"""`hadamard_mux` beyond the common contract (tests/functional/test_op_contract.py)."""

from __future__ import annotations

import pytest
import torch

from fastmux import reference
from fastmux.functional import hadamard_mux
from fastmux.testing import TOLERANCE, assert_meets, relative_error
from fastmux.testing import hadamard_mux as draw


@pytest.mark.parametrize("shape", [(5, 2, 1, 130), (1, 40, 3, 8), (2, 5, 70, 257)], ids=str)
def test_more_rows_and_columns_than_one_tile(backend, device, poisoned, shape):
    assert_meets(hadamard_mux, reference.hadamard_mux, draw(*shape), torch.float32, device)


@pytest.mark.parametrize("scale", [1.0, -0.3, 1 / 3])
def test_scale(backend, device, scale):
    assert_meets(
        lambda x, instance_vectors: hadamard_mux(x, instance_vectors, scale=scale),
        lambda x, instance_vectors: reference.hadamard_mux(x, instance_vectors, scale),
        draw(2, 3, 4, 20),
        torch.float64,
        device,
    )


def test_fixed_vectors_keep_no_instances_alive(backend, device):
    """With fixed vectors the op saves nothing of size (G, N, L, d) for backward."""
    x = torch.randn(4, 8, 16, 32, device=device, requires_grad=True)
    v = torch.randn(8, 32, device=device)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        hadamard_mux(x, v)
    assert saved and max(saved) == v.numel()


def test_mixed_dtypes(backend, device):
    x = torch.randn(2, 3, 4, 8, device=device, dtype=torch.bfloat16, requires_grad=True)
    v = torch.randn(3, 8, device=device, requires_grad=True)
    y = hadamard_mux(x, v)
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype, v.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_registered_ops_pass_opcheck(triton_device):
    x, v = (t.to(triton_device) for t in draw(2, 3, 4, 6).values())
    dy = torch.randn(2, 4, 6, dtype=torch.float64, device=triton_device)
    ops = torch.ops.fastmux
    torch.library.opcheck(ops.hadamard_mux_forward.default, (x, v, 0.5))
    torch.library.opcheck(ops.hadamard_mux_forward.default, (x.transpose(2, 3), v[:, :4], 0.5))
    torch.library.opcheck(ops.hadamard_mux_dx.default, (dy, v, 0.5, torch.float64))
    torch.library.opcheck(ops.hadamard_mux_dv.default, (dy, x, 0.5, torch.float64))


@pytest.mark.parametrize(
    ("x", "v", "message"),
    [
        ((2, 3, 4, 8), (4, 8), r"instance_vectors has shape \(4, 8\), expected \(N, d\) with .*N = 3"),
        ((2, 3, 4, 8), (3, 9), r"instance_vectors has shape \(3, 9\)"),
        ((3, 4, 8), (3, 8), r"x has shape \(3, 4, 8\), expected \(G, N, L, d\)"),
        ((2, 0, 4, 8), (0, 8), r"at least one instance"),
    ],
)
def test_bad_shapes(x, v, message):
    with pytest.raises(ValueError, match=message):
        hadamard_mux(torch.ones(x), torch.ones(v))


def test_bad_dtype_and_device():
    with pytest.raises(ValueError, match=r"x has dtype torch.int64, expected a floating point"):
        hadamard_mux(torch.ones(1, 2, 3, 4, dtype=torch.long), torch.ones(2, 4))
    with pytest.raises(ValueError, match="instance_vectors is on meta, expected cpu"):
        hadamard_mux(torch.ones(1, 2, 3, 4), torch.ones(2, 4, device="meta"))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(room):
    """The last of 2049 groups begins at element 2^31."""
    room(12)
    with torch.device("cuda"):
        x, v = torch.randn(2049, 2, 128, 4096, dtype=torch.bfloat16), torch.randn(2, 4096, dtype=torch.bfloat16)
    y = hadamard_mux(x, v)
    for group in (0, -1):
        expected = reference.hadamard_mux(x[group, None].double(), v.double())[0]
        assert relative_error(y[group], expected.cpu()) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("instances", [1, 7, 8, 9, 13])
def test_few_instances_and_many(triton_device, poisoned, instances):
    """Up to eight their number is a constant of the kernel, beyond that a loop."""
    assert_meets(hadamard_mux, reference.hadamard_mux, draw(2, instances, 3, 20), torch.float32, triton_device)
