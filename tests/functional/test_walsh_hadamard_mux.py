"""`walsh_hadamard` and `walsh_hadamard_mux` beyond the common contract (tests/functional/test_op_contract.py)."""

from __future__ import annotations

import copy
import importlib
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastmux import reference
from fastmux.functional import fixed_weights, orthogonal_mux, walsh_hadamard, walsh_hadamard_mux
from fastmux.modules.multiplexer import MULTIPLEXERS
from fastmux.testing import assert_agrees, assert_meets, relative_error
from fastmux.testing import walsh_hadamard_mux as draw

ORDERS = [1, 2, 8, 12, 20, 28, 48, 80, 112, 128, 256, 768]


@pytest.mark.parametrize("order", ORDERS)
def test_the_specification_is_a_hadamard_matrix(order):
    h = reference.hadamard_matrix(order)
    assert (h.abs() == 1).all() and torch.equal(h @ h.T, order * torch.eye(order, dtype=torch.float64))


def test_not_every_matrix_is_symmetric():
    """Why there is a transpose: a backward pass that applied H again would be wrong at these sizes."""
    for order in (12, 20, 48, 80, 768):
        h = reference.hadamard_matrix(order)
        assert not torch.equal(h, h.T)


@pytest.mark.parametrize("transpose", [False, True], ids=["forward", "transpose"])
@pytest.mark.parametrize("order", [*ORDERS, 8192])
def test_is_the_product_with_the_matrix(order, transpose):
    x = torch.randn(2, 3, order, dtype=torch.float64)
    if order == 8192:  # too large to write out: it preserves length, and the transpose undoes it
        assert relative_error(walsh_hadamard(x).norm(), x.norm()) < 1e-12
        assert relative_error(walsh_hadamard(walsh_hadamard(x), transpose=True), x) < 1e-12
        return
    h = reference.hadamard_matrix(order) / order**0.5
    assert relative_error(walsh_hadamard(x, transpose=transpose), x @ (h if transpose else h.T)) < 1e-12


@pytest.mark.parametrize("order", [12, 64, 80, 112])
def test_orthogonality_in_float32(order):
    h = walsh_hadamard(torch.eye(order))
    assert float((h @ h.T - torch.eye(order)).abs().max()) < 1e-5


@pytest.mark.parametrize("order", [4, 20, 24])
def test_transform_differentiates(order):
    x = torch.randn(2, order, dtype=torch.float64, requires_grad=True)
    for transpose in (False, True):
        assert torch.autograd.gradcheck(lambda t, flag=transpose: walsh_hadamard(t, transpose=flag), (x,))


def test_transform_of_anything():
    assert walsh_hadamard(torch.ones(0, 3, 24)).shape == (0, 3, 24)
    x = torch.randn(24, 5).T
    assert relative_error(walsh_hadamard(x), walsh_hadamard(x.contiguous())) < 1e-6
    assert walsh_hadamard(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 3, 2, 80), torch.bfloat16),
        ((2, 2, 3, 112), torch.bfloat16),
        # Of the largest, products with whole matrices in bfloat16, which the plain formula takes, are slow on a CPU.
        *((shape, torch.float32) for shape in ((1, 3, 2, 80), (2, 2, 3, 112), (1, 2, 2, 768), (1, 2, 1, 1024))),
        *(((2, 1, 1, 1), dtype) for dtype in (torch.float32, torch.bfloat16)),
    ],
    ids=str,
)
def test_every_family_of_sizes(backend, device, poisoned, shape, dtype):
    assert_meets(walsh_hadamard_mux, reference.walsh_hadamard_mux, draw(*shape), dtype, device)


@pytest.fixture
def no_matrices(monkeypatch):
    """As in a new process, where no matrix is kept yet."""
    module = importlib.import_module("fastmux.functional.walsh_hadamard")
    monkeypatch.setattr(module, "_matrices", {})


FIRST_USES = {
    "fake tensors": FakeTensorMode,
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "meta device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("first", FIRST_USES)
def test_matrices_of_a_first_use_serve_every_later_one(no_matrices, first):
    x = torch.randn(2, 24, dtype=torch.float64)
    with FIRST_USES[first]() as mode:
        y = walsh_hadamard(mode.from_tensor(x) if first == "fake tensors" else x)
        assert y.shape == x.shape and isinstance(y, FakeTensor) == (first == "fake tensors")
    assert walsh_hadamard(x.to("meta")).device.type == "meta"
    torch.func.vmap(walsh_hadamard)(x)
    gold = x @ (reference.hadamard_matrix(24) / 24**0.5).T
    assert relative_error(walsh_hadamard(x), gold) < 1e-12
    assert torch.autograd.gradcheck(walsh_hadamard, (x.clone().requires_grad_(),))
    with FakeTensorMode() as mode:  # and of a later one that has no values
        assert isinstance(walsh_hadamard(mode.from_tensor(x)), FakeTensor)


def test_a_module_is_copied_and_cast_after_a_pass():
    module = MULTIPLEXERS["walsh_hadamard"](2, 12)
    x = torch.randn(1, 2, 3, 12)
    y, transforms, names = module(x), module.transforms, list(module.state_dict())
    with fixed_weights():
        for dtype in (torch.float64, torch.bfloat16, torch.float32):
            copied = copy.deepcopy(module).to(dtype)
            assert copied(x.to(dtype)).dtype == copied.transforms.dtype == dtype
            assert_agrees(copied(x.to(dtype)), y)
            assert_agrees(copied.transforms, transforms)
        again = pickle.loads(pickle.dumps(copied))
        assert_agrees(again(x), y)
        assert list(again.state_dict()) == names
        assert copied.to("meta").transforms.device.type == "meta"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(module(mode.from_tensor(x)), FakeTensor)
    assert_agrees(module(x), y)


def test_is_an_orthogonal_mux(backend, device):
    inputs = {k: t.to(device) for k, t in draw(2, 3, 4, 24).items()}
    eye = torch.eye(24, dtype=torch.float64, device=device)[None, None]
    matrices = torch.stack(
        [
            walsh_hadamard_mux(eye, *(signs[i : i + 1] for name, signs in inputs.items() if name != "x"))[0].T
            for i in range(3)
        ]
    )
    assert relative_error(matrices @ matrices.mT, eye[0].expand(3, -1, -1)) < 1e-12
    assert relative_error(walsh_hadamard_mux(**inputs), orthogonal_mux(inputs["x"], matrices)) < 1e-12


@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_scale_and_signs_of_any_dtype(backend, device, scale):
    inputs = draw(2, 3, 4, 20)
    signs = {
        k: t.to(device, torch.float32 if k == "inner_signs" else torch.int64) for k, t in inputs.items() if k != "x"
    }
    assert_meets(
        lambda x: walsh_hadamard_mux(x, **signs, scale=scale),
        lambda x: reference.walsh_hadamard_mux(x, inputs["inner_signs"], inputs["outer_signs"], scale),
        {"x": inputs["x"]},
        torch.float64,
        device,
    )


def test_keeps_signs_only(backend, device):
    inputs = {k: t.to(device) for k, t in draw(2, 4, 8, 16).items()}
    inputs["x"].requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        walsh_hadamard_mux(**inputs)
    assert saved and max(saved) == 4 * 16


def test_registered_ops_pass_opcheck(triton_device):
    x, inner, outer = (t.to(triton_device) for t in draw(2, 3, 4, 12).values())
    dy = torch.randn(2, 4, 12, dtype=torch.float64, device=triton_device)
    ops = torch.ops.fastmux
    torch.library.opcheck(ops.walsh_hadamard_mux_forward.default, (x, inner, outer, 0.5))
    torch.library.opcheck(ops.walsh_hadamard_mux_dx.default, (dy, inner, outer, 0.5, torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 3, 4, 9)}, r"inner_signs has shape \(3, 8\), expected \(N, d\) with .*d = 9"),
        ({"outer_signs": torch.ones(2, 8)}, r"outer_signs has shape \(2, 8\)"),
        ({"x": torch.ones(2, 3, 4, 8, dtype=torch.int32)}, "x has dtype torch.int32"),
        ({"inner_signs": torch.ones(3, 8, requires_grad=True)}, "inner_signs requires a gradient, expected fixed"),
        ({"inner_signs": torch.ones(3, 8, device="meta")}, "inner_signs is on meta, expected cpu"),
    ],
)
def test_bad_input(change, message):
    inputs = {k: t.float() for k, t in draw(2, 3, 4, 8).items()}
    with pytest.raises(ValueError, match=message):
        walsh_hadamard_mux(**(inputs | change))


@pytest.mark.parametrize("order", [3, 6, 7, 10, 36, 100, 0])
def test_other_sizes_are_refused(order):
    with pytest.raises(
        ValueError, match=rf"last dimension of {order}, expected m \* 2\^k with m in \{{1, 12, 20, 28\}}"
    ):
        walsh_hadamard(torch.ones(2, order))
    signs = torch.ones(1, order)
    with pytest.raises(ValueError, match=f"x has a last dimension of {order}"):
        walsh_hadamard_mux(torch.ones(1, 1, 2, order), signs, signs)
