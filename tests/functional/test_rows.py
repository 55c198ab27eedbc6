"""What kernels of whole rows compute an element at a time, beside PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="these are parts of the Triton kernels")

import triton
import triton.language as tl

from fastmux.kernels.common.rows import gelu


@triton.jit
def _gelu_kernel(u_ptr, value_ptr, slope_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value, slope = gelu(tl.load(u_ptr + at))
    tl.store(value_ptr + at, value)
    tl.store(slope_ptr + at, slope)


# Of erf the approximation is wrong by 1.5e-7, of the distribution function by half of that; float32 rounds beside it.
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 3e-7), (torch.float64, 1e-14)], ids=str)
def test_gelu_and_its_slope(triton_device, dtype, allowed):
    u = torch.linspace(-12, 12, 4096, dtype=dtype, device=triton_device)
    value, slope = torch.empty_like(u), torch.empty_like(u)
    _gelu_kernel[(1,)](u, value, slope, BLOCK=4096)
    exact = u.double().requires_grad_()
    gold = F.gelu(exact)
    (gold_slope,) = torch.autograd.grad(gold.sum(), exact)
    gold, exact = gold.detach(), exact.detach()
    assert float((slope - gold_slope).abs().max()) < allowed
    assert float(((value - gold).abs() / (1 + exact.abs())).max()) < allowed
