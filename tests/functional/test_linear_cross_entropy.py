from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastmux.functional import linear_argmax, linear_cross_entropy
from fastmux.functional.linear_cross_entropy import chunk_rows
from fastmux.testing import DTYPES, assert_meets, layout_rounds, normal, relative_error


@pytest.fixture(params=[3, 1 << 20], ids=["chunks", "one_chunk"])
def chunked(request, monkeypatch):
    """Three rows a chunk of ten, or everything at once."""
    import importlib

    module = importlib.import_module("fastmux.functional.linear_cross_entropy")
    monkeypatch.setitem(module.CHUNK_ELEMENTS, "cpu", request.param * 50)


def draw(rows=10, width=8, vocab=50):
    target = torch.randint(0, vocab, (rows,))
    target[::4] = -100
    return (
        torch.randn(rows, width, dtype=torch.float64, requires_grad=True),
        torch.randn(vocab, width, dtype=torch.float64, requires_grad=True),
        target,
        torch.randn(vocab, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("with_bias", [True, False])
def test_meets_plain_cross_entropy(chunked, with_bias):
    hidden, weight, target, bias = draw()
    bias = bias if with_bias else None
    leaves = [t for t in (hidden, weight, bias) if t is not None]
    ours = linear_cross_entropy(hidden, weight, target, bias)
    plain = F.cross_entropy(F.linear(hidden, weight, bias), target)
    assert relative_error(ours.detach(), plain.detach()) < 1e-12
    for a, b in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * plain, leaves), strict=True):
        assert relative_error(a, b) < 1e-12


def in_dtype_of_hidden(op):
    """The loss is float32 in half precision; `assert_meets` asks for the dtype of the inputs."""
    return lambda **inputs: op(**inputs).to(inputs["hidden"].dtype)


def plain(hidden, weight, target, bias):
    return F.cross_entropy(F.linear(hidden, weight, bias), target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_dtype_and_layout(chunked, dtype):
    target = torch.randint(0, 50, (10,))
    inputs = {"hidden": normal(10, 8), "weight": normal(50, 8), "target": target, "bias": normal(50)}
    assert_meets(in_dtype_of_hidden(linear_cross_entropy), plain, inputs, dtype)
    for kinds, operands in layout_rounds(inputs):
        if kinds["weight"] == "expanded_0":
            continue  # of words that are all the same, the gradient of hidden is 0, and rounding is all that is left
        try:
            assert_meets(in_dtype_of_hidden(linear_cross_entropy), plain, operands, dtype)
        except AssertionError as error:
            raise AssertionError(f"{kinds}: {error}") from None


@pytest.mark.parametrize(("rows", "width", "vocab"), [(0, 4, 5), (1, 1, 1), (1, 4, 1), (7, 1, 3), (3, 0, 4)])
def test_sizes_of_0_and_1(chunked, rows, width, vocab):
    hidden, weight = (normal(*shape).requires_grad_() for shape in ((rows, width), (vocab, width)))
    target = torch.randint(0, vocab, (rows,))
    loss = linear_cross_entropy(hidden, weight, target)
    gold = F.cross_entropy(F.linear(hidden, weight), target, reduction="sum") / max(1, rows)
    assert relative_error(loss.detach(), gold) < 1e-12
    for a, b in zip(*(torch.autograd.grad(y, (hidden, weight)) for y in (loss, gold)), strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("outside", [-1, -51, 50])
def test_targets_outside_the_vocabulary_are_refused(chunked, outside):
    """-1 is no target, and not the vocabulary's last word; with ``ignore_index=-1`` it does not count."""
    hidden, weight, target, bias = draw()
    target[1] = outside
    with pytest.raises(ValueError, match=rf"target holds {outside}, expected values from 0 to 49, or -100"):
        linear_cross_entropy(hidden, weight, target, bias)
    target = target.masked_fill(target == -100, 3)
    loss = linear_cross_entropy(hidden, weight, target, bias, ignore_index=outside)
    others = torch.arange(10) != 1
    assert relative_error(loss.detach(), plain(hidden[others], weight, target[others], bias)) < 1e-12


def test_half_precision_is_reduced_in_float32(chunked):
    hidden, weight, target, bias = (t.detach().bfloat16() if t.is_floating_point() else t for t in draw())
    loss = linear_cross_entropy(hidden, weight, target, bias)
    gold = F.cross_entropy(F.linear(hidden.double(), weight.double(), bias.double()), target)
    assert loss.dtype == torch.float32 and relative_error(loss, gold) < 1e-2


def test_autocast(chunked):
    hidden, weight, target, bias = (
        t.detach().float().requires_grad_(t.is_floating_point()) if t.is_floating_point() else t for t in draw()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, target, bias)
    loss.backward()
    gold_h, gold_w, gold_b = (t.detach().double().requires_grad_() for t in (hidden, weight, bias))
    F.cross_entropy(F.linear(gold_h, gold_w, gold_b), target).backward()
    for ours, gold in ((hidden, gold_h), (weight, gold_w), (bias, gold_b)):
        assert ours.grad.dtype == torch.float32 and relative_error(ours.grad, gold.grad) < 3e-2


def test_no_target_counts(chunked):
    hidden, weight, target, bias = draw()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(target, -100), bias)
    loss.backward()
    assert loss.item() == 0.0 and not hidden.grad.any() and not weight.grad.any()


def test_argmax(chunked):
    hidden, weight, _, bias = draw()
    assert torch.equal(linear_argmax(hidden, weight, bias), F.linear(hidden, weight, bias).argmax(-1))
    assert linear_argmax(hidden[:0], weight, bias).shape == (0,)


def test_logits_are_never_all_in_memory():
    """No tensor of R * V elements is made, forward or backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    rows, vocab = 3000, 4000
    hidden, weight = torch.randn(rows, 16, requires_grad=True), torch.randn(vocab, 16, requires_grad=True)
    with Watch():
        linear_cross_entropy(hidden, weight, torch.randint(0, vocab, (rows,))).backward()
    assert largest < rows * vocab / 4


@pytest.mark.parametrize(("device", "rows"), [("cpu", 64), ("cuda", 4397), ("xpu", 4397)])
def test_chunks_fit_the_device(device, rows):
    """Of logits of BERT's vocabulary: what a cache holds on a CPU, 2^27 elements on a GPU; never more than all."""
    assert chunk_rows(8192, 30522, device) == rows
    assert chunk_rows(10, 30522, device) == 10 and chunk_rows(0, 30522, device) == 1


def test_bad_shapes():
    hidden, weight, target, bias = draw()
    with pytest.raises(ValueError, match=r"weight has shape \(50, 7\), expected \(V, d\) with R = 10, d = 8"):
        linear_cross_entropy(hidden, weight[:, :7], target, bias)
    with pytest.raises(ValueError, match=r"target has shape \(9,\)"):
        linear_cross_entropy(hidden, weight, target[:9], bias)
