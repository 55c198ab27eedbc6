"""Attention under bfloat16 autocast on a CPU is computed in float32, and nothing else is changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastmux.distillation.attention import attention_in_float32


@pytest.fixture
def given():
    """Queries, keys and values, (3, 2, 7, 4), and a mask."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 2, 7, 4).bfloat16().unbind()
    mask = torch.rand(3, 1, 7, 7) > 0.3
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), mask | torch.eye(7, dtype=torch.bool)


@pytest.mark.parametrize("kind", [torch.bool, torch.bfloat16, None])
def test_it_is_that_of_float32_forward_and_backward(given, kind):
    q, k, v, mask = given
    mask = None if kind is None else mask if kind is torch.bool else torch.where(mask, 0.0, -1e4).to(kind)
    gradient = torch.randn(3, 2, 7, 4)
    with torch.autocast("cpu", torch.bfloat16), attention_in_float32(True):
        found = F.scaled_dot_product_attention(q, key=k, value=v, attn_mask=mask, scale=0.3)
    found.backward(gradient.bfloat16())
    alone = [t.detach().double().requires_grad_() for t in (q, k, v)]
    wide = mask if mask is None or kind is torch.bool else mask.double()
    gold = F.scaled_dot_product_attention(*alone, attn_mask=wide, scale=0.3)
    gold.backward(gradient.bfloat16().double())
    assert found.dtype == torch.bfloat16 and torch.equal(found, gold.bfloat16())
    for ours, theirs in zip((q, k, v), alone, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad.bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_numbers_and_other_calls_are_left_alone(dtype):
    q, k, v = torch.randn(3, 2, 5, 4).to(dtype).unbind()
    with attention_in_float32(True):
        found, product = F.scaled_dot_product_attention(q, k, v), q.bfloat16() @ k.bfloat16().mT
    assert torch.equal(found, F.scaled_dot_product_attention(q, k, v)) and product.dtype == torch.bfloat16


def test_without_bfloat16_nothing_is_done(given):
    q, k, v, _ = given
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen, attention_in_float32(False):
        F.scaled_dot_product_attention(q, k, v)
    assert not any(event.key == "aten::_to_copy" for event in seen.key_averages())
