"""`index_demux` and the `pair_norm` behind it, beyond the common contract (tests/functional/test_op_contract.py)."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

import fastmux
from fastmux import reference
from fastmux.functional import index_demux, mlp_demux, pair_norm, unbind_demux
from fastmux.testing import TOLERANCE, assert_agrees, assert_meets, relative_error, run
from fastmux.testing import index_demux as draw
from fastmux.testing import mlp_demux as draw_mlp
from fastmux.testing import unbind_demux as draw_unbind
from fastmux.testing import unbind_demux_elementwise as draw_product


@pytest.mark.parametrize("shape", [(2, 9, 37, 24), (1, 3, 130, 40), (3, 2, 4, 300)], ids=str)
def test_more_positions_and_instances_than_one_tile(backend, device, poisoned, shape):
    assert_meets(index_demux, reference.index_demux, draw(*shape), torch.float32, device)


def test_many_groups_split_differently_the_same_result(triton_device, monkeypatch):
    """How a launcher cuts the work must not show in the result."""
    from fastmux.kernels import pair_norm as kernels

    inputs = {k: t.to(triton_device) for k, t in draw(2, 6, 50, 20).items()}
    for multiprocessors in (1, 3, 132):
        monkeypatch.setattr(kernels, "multiprocessors", lambda t, count=multiprocessors: count)
        assert_meets(index_demux, reference.index_demux, inputs, torch.float64, triton_device)


def test_large_mean_does_not_cancel(backend, device):
    """Statistics in two passes: a common offset far above the spread of a row costs no more digits than storing it
    does."""
    inputs = draw(2, 3, 5, 64)
    inputs["bias"] = inputs["bias"] + 300.0
    assert_meets(index_demux, reference.index_demux, inputs, torch.float32, device)


def test_keys_are_shared_by_all_groups(backend, device):
    inputs = {k: t.to(device) for k, t in draw(3, 4, 5, 16).items()}
    keys = inputs["p"][0]
    repeated = inputs | {"p": keys.expand(3, -1, -1)}
    assert relative_error(index_demux(**(inputs | {"p": keys})), index_demux(**repeated).cpu()) < 1e-12


def test_drawn_instances_are_those_of_the_whole(backend, device):
    inputs = {k: t.to(device) for k, t in draw(3, 4, 5, 16).items()}
    instances = torch.randint(0, 4, (3, 5), device=device)
    whole = index_demux(**inputs)
    index = instances[:, None, :, None].expand(-1, 1, -1, 16)
    assert relative_error(index_demux(**inputs, instances=instances), whole.gather(1, index)[:, 0].cpu()) < 1e-12


def test_the_two_summands_are_saved_and_at_most_the_statistics(backend, device):
    """Backward forms GELU again: nothing of size (G, N, L, d) is kept."""
    a, b = torch.randn(2, 7, 16, device=device), torch.randn(2, 5, 16, device=device)
    weight, bias = torch.ones(16, device=device), torch.zeros(16, device=device)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        pair_norm(a.requires_grad_(), b, weight, bias)
    statistics = 0 if backend == "triton" else 2 * 2 * 5 * 7
    assert max(saved) == a.numel() and sum(saved) <= a.numel() + b.numel() + 2 * 16 + statistics


def with_head(inputs, labels):
    width = inputs["h"].shape[-1]
    head = {"head_weight": torch.randn(labels, width) / width**0.5, "head_bias": torch.randn(labels)}
    return inputs | {name: t.double() for name, t in head.items()}


def headed_reference(head_weight, head_bias, **inputs):
    return F.linear(reference.index_demux(**inputs), head_weight, head_bias)


def product(**inputs):
    return unbind_demux(weight=None, bias=None, **inputs)


def product_reference(head_weight, head_bias, **inputs):
    return F.linear(reference.unbind_demux(weight=None, bias=None, **inputs), head_weight, head_bias)


HEADED = {"gelu": (index_demux, headed_reference, draw), "product": (product, product_reference, draw_product)}


@pytest.mark.parametrize("drawn", [False, True], ids=["all", "drawn"])
@pytest.mark.parametrize("labels", [1, 17, 64, 65])
def test_heads_of_any_size(backend, device, poisoned, labels, drawn):
    inputs = with_head(draw(2, 3, 5, 36), labels)
    if drawn:
        inputs["instances"] = torch.randint(0, 3, (2, 5))
    assert_meets(index_demux, headed_reference, inputs, torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("labels", [1, 2, 9, 17, 33, 64, 65])
@pytest.mark.parametrize("mode", HEADED)
def test_fused_heads_in_every_dtype(triton_device, poisoned, mode, labels, dtype):
    """Up to 64 labels one kernel forms the logits, above it z is formed; d past one block of columns."""
    op, gold, draws = HEADED[mode]
    assert_meets(op, gold, with_head(draws(2, 2, 5, 40), labels), dtype, triton_device)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 5), (3, 1, 1, 40), (2, 5, 1, 20), (1, 1, 37, 16), (3, 2, 40, 150)], ids=str
)
@pytest.mark.parametrize("mode", HEADED)
def test_fused_heads_of_odd_shapes(triton_device, poisoned, monkeypatch, mode, shape):
    """However the launcher shares out groups and positions: on one multiprocessor or many."""
    from fastmux.kernels import pair_norm_head as kernels

    op, gold, draws = HEADED[mode]
    inputs = with_head(draws(*shape), 3)
    for multiprocessors in (1, 132):
        monkeypatch.setattr(kernels, "multiprocessors", lambda t, count=multiprocessors: count)
        assert_meets(op, gold, inputs, torch.float64, triton_device)


@pytest.mark.parametrize("first", [0.0, -100.0], ids=["all", "after_the_first_block"])
def test_fused_heads_lose_nothing_to_a_large_mean(triton_device, first):
    """A mean of a hundred times the spread, and one that the first block of columns does not have."""
    inputs = with_head(draw(2, 3, 5, 160), 9)
    inputs["bias"] = inputs["bias"] + 100.0
    inputs["bias"][:64] += first
    assert_meets(index_demux, headed_reference, inputs, torch.float32, triton_device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [100.0, 1000.0])
@pytest.mark.parametrize("name", ["head_bias", "ln_bias"])
def test_what_a_head_adds_to_every_logit_costs_no_digit_of_a_gradient(triton_device, name, bias, dtype):
    """Logits of a thousand are rounded to fours in bfloat16; gradients are not to be taken from them."""
    inputs = with_head(draw(3, 4, 9, 64), 5)
    inputs[name] = inputs[name] + bias
    dy = torch.randn(3, 4, 9, 5, dtype=torch.float64)
    rounded = {k: t.to(dtype).double() for k, t in inputs.items()}
    _, gold, _ = run(headed_reference, rounded, dy.to(dtype).double())
    _, plain, _ = run(headed_reference, {k: t.to(dtype) for k, t in rounded.items()}, dy.to(dtype))
    inputs = {k: t.to(triton_device, dtype) for k, t in rounded.items()}
    _, ours, _ = run(index_demux, inputs, dy.to(triton_device, dtype))
    for k in ("h", "p", "weight", "bias", "ln_weight", "head_weight"):
        allowed = max(1.5 * relative_error(plain[k], gold[k]), TOLERANCE[dtype])
        assert relative_error(ours[k], gold[k]) <= allowed, k


@pytest.mark.parametrize("product", [False, True], ids=["gelu", "product"])
def test_an_instance_that_is_none_is_nan_and_touches_nothing(triton_device, product):
    """What the kernels do with instances that nobody looked at."""
    from fastmux.kernels import pair_norm as kernels

    kind = {"dtype": torch.float64, "device": triton_device}
    a, weight, bias = torch.randn(2, 9, 16, **kind), torch.randn(16, **kind), torch.randn(16, **kind)
    storage = torch.full((2, 11, 16), 1e30, **kind)
    b = storage[:, 4:7].copy_(torch.randn(2, 3, 16, **kind))
    instances = torch.randint(0, 3, (2, 9), device=triton_device)
    clean = kernels.pair_norm_forward(a, b, instances, weight, bias, 1e-12, product)
    bad = torch.zeros(2, 9, dtype=torch.bool, device=triton_device)
    bad[0, [2, 5]] = bad[1, [0, 8]] = True
    instances[bad] = torch.tensor([3, -1, 2**40, -(2**40)], device=triton_device)
    z = kernels.pair_norm_forward(a, b, instances, weight, bias, 1e-12, product)
    assert z[bad].isnan().all() and torch.equal(z[~bad], clean[~bad])
    da, db, dweight, _ = kernels.pair_norm_backward(
        torch.ones_like(z), a, b, instances, weight, 1e-12, True, True, product
    )
    assert da[bad].isnan().all() and da[~bad].isfinite().all() and dweight.isnan().all()
    assert db.shape == b.shape and db.isnan().any()


@pytest.mark.parametrize("drawn", [False, True], ids=["all", "drawn"])
@pytest.mark.parametrize("mode", HEADED)
def test_rows_that_are_not_there_leave_no_nan_where_eps_is_zero(triton_device, mode, drawn):
    op, gold, draws = HEADED[mode]
    gold = reference.index_demux if mode == "gelu" else lambda **i: reference.unbind_demux(weight=None, bias=None, **i)
    inputs = draws(2, 2, 3, 12)  # three positions in a tile of four
    if drawn:
        inputs["instances"] = torch.randint(0, 2, (2, 3))
    assert_meets(lambda **i: op(eps=1e-50, **i), lambda **i: gold(eps=1e-50, **i), inputs, torch.float32, triton_device)


@pytest.mark.parametrize("op", [index_demux, mlp_demux, unbind_demux], ids=lambda op: op.__name__)
@pytest.mark.parametrize("instance", [3, -1])
def test_instances_are_looked_at_on_a_cpu(backend, op, instance):
    draws = {"index_demux": draw, "mlp_demux": draw_mlp, "unbind_demux": draw_unbind}[op.__name__]
    instances = torch.tensor([[0, 1, instance, 2]])
    with pytest.raises(ValueError, match=f"instances holds {instance}, expected values from 0 to 2"):
        op(**draws(1, 3, 4, 8), instances=instances)


def test_what_fused_heads_save(triton_device):
    """Beside inputs the logits before the shift and the statistics of a row, and nothing of size (G, N, L, d)."""
    inputs = {k: t.to(triton_device).requires_grad_() for k, t in with_head(draw(2, 6, 16, 24), 5).items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        index_demux(**inputs)
    assert max(saved) <= 2 * 24 * 24 and saved.count(2 * 6 * 16) == 2 and saved.count(2 * 6 * 16 * 5) == 1


@pytest.mark.parametrize("labels", [3, 64])
def test_a_fused_head_writes_no_states(triton_device, monkeypatch, labels):
    """Nothing of size (G, N, L, d) is allocated, and without gradients nothing but the logits."""
    inputs = {k: t.to(triton_device) for k, t in draw(2, 6, 16, 24).items()}
    head, sizes, empty = torch.randn(labels, 24, device=triton_device).double(), [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: sizes.append(empty(*a, **k)) or sizes[-1])
    index_demux(**inputs, head_weight=head)
    assert sorted(t.numel() for t in sizes if t.is_floating_point())[-2:] == [0, 2 * 6 * 16 * labels]


def test_registered_ops_pass_opcheck(triton_device):
    a, b = (torch.randn(2, n, 6, dtype=torch.float64, device=triton_device) for n in (4, 3))
    weight, bias = torch.randn(2, 6, dtype=torch.float64, device=triton_device)
    instances = torch.randint(0, 3, (2, 4), device=triton_device)
    dz = torch.randn(2, 3, 4, 6, dtype=torch.float64, device=triton_device)
    ops = torch.ops.fastmux
    quick = ("test_schema", "test_faketensor")  # the compile test of the contract covers the others
    head = torch.randn(5, 6, dtype=torch.float64, device=triton_device)
    for drawn in (None, instances):
        torch.library.opcheck(ops.pair_norm_forward.default, (a, b, drawn, weight, bias, 1e-5, False))
        upstream = dz if drawn is None else dz[:, 0].contiguous()
        needed = drawn is None
        arguments = (upstream, a, b, drawn, weight, 1e-5, needed, needed, False)
        torch.library.opcheck(ops.pair_norm_backward.default, arguments)
        arguments = (a, b, weight, bias, head, head[:, 0].contiguous() if needed else None)
        torch.library.opcheck(ops.pair_norm_head_forward.default, (*arguments, 1e-5, True, needed), test_utils=quick)
        _logits, *saved = ops.pair_norm_head_forward(*arguments, 1e-5, True, True)
        arguments = (dz[..., :5], *saved, *arguments, True, needed, needed)
        torch.library.opcheck(ops.pair_norm_head_backward.default, arguments, test_utils=quick)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": torch.ones(2, 3, 9)}, r"p has shape \(2, 3, 9\), expected \(G, N, d\) with G = 2, L = 4, d = 8"),
        ({"p": torch.ones(3, 3, 8)}, r"p has shape \(3, 3, 8\)"),
        ({"weight": torch.ones(8, 8)}, r"weight has shape \(8, 8\), expected \(d, 2d\)"),
        ({"bias": torch.ones(9)}, r"bias has shape \(9,\)"),
        ({"ln_weight": torch.ones(9)}, r"ln_weight has shape \(9,\)"),
        ({"instances": torch.zeros(2, 5, dtype=torch.long)}, r"instances has shape \(2, 5\), expected \(G, L\)"),
        ({"instances": torch.full((2, 4), 3)}, "instances holds 3, expected values from 0 to 2"),
        ({"instances": torch.zeros(2, 4)}, "instances has dtype torch.float32, expected an integer"),
        ({"h": torch.ones(2, 4, 8, dtype=torch.int32)}, "h has dtype torch.int32"),
    ],
)
def test_bad_input(change, message):
    inputs = {k: t.float() for k, t in draw(2, 3, 4, 8).items()}
    with pytest.raises(ValueError, match=message):
        index_demux(**(inputs | change))


def test_rows_too_long_for_the_kernel(triton_device):
    from fastmux.kernels.common.launch import MAX_ROW

    a = torch.ones(1, 1, MAX_ROW + 1, device=triton_device)
    with pytest.raises(ValueError, match=f"hidden_size is {MAX_ROW + 1}, .* at most {MAX_ROW}"):
        pair_norm(a, a, a[0, 0], a[0, 0])


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(room):
    """The last of 257 groups begins at element 2^31 of the result."""
    room(16)
    inputs = {k: t.to("cuda", torch.bfloat16) for k, t in draw(257, 64, 128, 1024).items()}
    with torch.no_grad():
        z = index_demux(**inputs)
    per_group = ("h", "p")
    for group in (0, -1):
        one = {k: (t[group, None] if k in per_group else t).double() for k, t in inputs.items()}
        expected = reference.index_demux(**one)[0]
        plain = reference.index_demux(**{k: t.bfloat16() for k, t in one.items()})[0]
        allowed = max(TOLERANCE[torch.bfloat16], 2 * relative_error(plain, expected.cpu()))
        assert relative_error(z[group], expected.cpu()) < allowed


@pytest.mark.parametrize("labels", [0, 3])
def test_blocks_give_what_one_block_gives(monkeypatch, labels):
    """On a CPU; tensors as small as these are one block otherwise."""
    kind = {"dtype": torch.float64, "requires_grad": True}
    sizes = {"a": (3, 5, 16), "b": (3, 4, 16), "ln_weight": (16,), "ln_bias": (16,)}
    inputs = {name: torch.randn(size, **kind) for name, size in sizes.items()}
    if labels:
        inputs |= {"head_weight": torch.randn(labels, 16, **kind), "head_bias": torch.randn(labels, **kind)}

    def run():
        with fastmux.backend("torch"):
            y = pair_norm(**inputs)
        return y, *torch.autograd.grad(y, inputs.values(), torch.ones_like(y).cumsum(-1))

    whole = run()
    monkeypatch.setattr(sys.modules["fastmux.functional.pair_norm"], "ONE_BLOCK_ELEMENTS", 0)
    monkeypatch.setattr(sys.modules["fastmux.functional.pair_norm"], "BLOCK_ELEMENTS", 2 * 5 * 16)
    for blocks, one in zip(run(), whole, strict=True):
        assert_agrees(blocks, one)
