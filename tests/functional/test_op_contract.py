"""What every op promises: the reference's values and gradients in every dtype, for any shape and stride, on every
backend; only the gradients asked for; the same bits twice; no graph break.

Without a GPU, kernels run in Triton's interpreter, which takes seconds for what takes microseconds: of the values that
a test goes through it is then given every other one, in turn.
"""

from __future__ import annotations

import pytest
import torch
from thoroughness import ALL
from torch.utils.checkpoint import checkpoint

import fastmux
from fastmux.testing import DTYPES, OPS, assert_agrees, assert_meets, layout_rounds, relative_error, run

# G, N, L, d; other shapes are drawn. In turn, an op meets every dtype and both shapes.
SHAPES_AND_DTYPES = [((3, 4, 5, 16), dtype) for dtype in DTYPES]
SHAPES_AND_DTYPES += [((2, 3, 1, 130), DTYPES[i]) for i in (1, 0, 3, 2)]
WHOLE = ALL or torch.cuda.is_available()


def pytest_generate_tests(metafunc):
    own = {"shape_and_dtype": SHAPES_AND_DTYPES}
    name = next((name for name in own if name in metafunc.fixturenames), None)
    cases = []
    for turn, (op, promised) in enumerate(OPS.items()):
        backends = promised.backends
        if "one_backend" in metafunc.fixturenames and not WHOLE:
            backends = [backends[turn % len(backends)]]
        for backend in backends:
            values = [()] if name is None else [(value,) for value in own[name]]
            cases += [
                (op, backend, *value) for value in (values if WHOLE or backend == "torch" else in_turn(values, turn))
            ]
    names = ("case", "backend") if name is None else ("case", "backend", name)
    ids = ["-".join(map(str, case)) for case in cases]
    metafunc.parametrize(names, cases, ids=ids, indirect=("case", "backend"))


def in_turn(values: list, turn: int) -> list:
    return values if len(values) == 1 else values[turn % 2 :: 2]


@pytest.fixture
def one_backend():
    """For what a backend makes no difference to: without a GPU, every op has one, in turn."""


@pytest.fixture
def case(request):
    return OPS[request.param]


@pytest.fixture
def backend(request):
    with fastmux.backend(request.param):
        yield request.param


@pytest.fixture
def deterministic():
    """What PyTorch offers those who want the same bits twice; ops may then take a slower road."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def _leaves(inputs, dtype, device, wanted=None):
    return {
        k: t.to(device, dtype).requires_grad_(wanted is None or k in wanted) if t.is_floating_point() else t.to(device)
        for k, t in inputs.items()
    }


def test_meets_the_reference(case, backend, device, poisoned, shape_and_dtype):
    shape, dtype = shape_and_dtype
    assert_meets(case.op, case.reference, case.draw(*shape), dtype, device)


def test_any_layout(case, backend, device, poisoned):
    inputs = case.draw(2, 3, 4, 12)
    drawn = inputs | {"dy": torch.randn_like(case.reference(**inputs))}
    for number, (kinds, operands) in enumerate(layout_rounds(drawn)):
        dtype, dy = (torch.float64, torch.float32)[number % 2], operands.pop("dy")
        try:
            assert_meets(case.op, case.reference, operands, dtype, device, dy)
        except AssertionError as error:
            raise AssertionError(f"round {number}, {kinds}: {error}") from None


def test_outputs_lie_as_announced(case, backend, device, one_backend):
    """A compiler plans by what ops say of tensors without data: shapes and strides of results and of gradients."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def results(inputs):
        floating = [t for t in inputs.values() if t.is_floating_point()]
        y = case.op(**inputs)
        return [y, *torch.autograd.grad(y, floating, torch.ones_like(y))]

    rounds = list(layout_rounds(case.draw(2, 3, 4, 12)))
    for kinds, inputs in rounds[:: 1 if WHOLE or backend == "torch" else 3]:
        leaves = {k: t.to(device).requires_grad_(t.is_floating_point()) for k, t in inputs.items()}
        with FakeTensorMode() as mode:
            fakes = {k: mode.from_tensor(t) for k, t in leaves.items()}
            announced = [(t.shape, t.stride(), t.dtype) for t in results(fakes)]
        assert announced == [(t.shape, t.stride(), t.dtype) for t in results(leaves)], kinds


def test_derivatives_that_nobody_wrote_are_refused(case, backend, device, one_backend):
    """Forward-mode and second derivatives are right or an error, never 0 for what is not implemented; so is vmap."""
    inputs = {k: t.to(device) for k, t in case.draw(1, 2, 3, 12).items()}
    floating = {k: t for k, t in inputs.items() if t.is_floating_point()}
    tangents = tuple(torch.randn_like(t) for t in floating.values())
    refused = (NotImplementedError, RuntimeError)

    def of(function):
        return lambda *tensors: function(**(inputs | dict(zip(floating, tensors, strict=True))))

    def forward_mode(f):
        return torch.func.jvp(f, tuple(floating.values()), tangents)[1]

    def dual_numbers(f):
        with torch.autograd.forward_ad.dual_level():
            pairs = zip(floating.values(), tangents, strict=True)
            y = f(*[torch.autograd.forward_ad.make_dual(*pair) for pair in pairs])
            return torch.autograd.forward_ad.unpack_dual(y).tangent

    def second(f):
        leaves = [t.clone().requires_grad_() for t in floating.values()]
        first = torch.autograd.grad(f(*leaves).square().sum(), leaves, create_graph=True)
        return torch.cat([g.flatten() for g in torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])

    def batched(f):
        return torch.func.vmap(f)(*[torch.stack([t, 2 * t + 1]) for t in floating.values()])

    for derivative in (forward_mode, dual_numbers, second, batched):
        gold = derivative(of(case.reference)) if derivative is not batched else None
        try:
            ours = derivative(of(case.op))
        except refused as error:
            assert "not implemented" in str(error) or "not support" in str(error), error
            continue
        if derivative is batched:
            gold = torch.stack([of(case.reference)(*[s * t + s - 1 for t in floating.values()]) for s in (1, 2)])
        assert ours is not None and relative_error(ours, gold.cpu()) < 1e-8, derivative.__name__


def test_the_default_device_is_of_no_matter(case, backend, device, one_backend):
    inputs = _leaves(case.draw(2, 2, 3, 12), torch.float32, device)
    with torch.device("meta"):
        y = case.op(**inputs)
        y.sum().backward()
    assert y.device.type == device.type and y.isfinite().all()


def test_drawn_shapes(case, backend, device):
    hypothesis = pytest.importorskip("hypothesis", reason="shapes are drawn by the package hypothesis")
    from hypothesis import strategies

    # Of d = 3 LayerNorm leaves one direction: one draw in eighty loses more than float32's digits in it.
    sizes = [strategies.integers(*limits) for limits in ((1, 3), (1, 5), (1, 7), (5, 40))]

    @hypothesis.settings(max_examples=4, deadline=None)
    @hypothesis.given(*sizes, strategies.sampled_from(DTYPES), strategies.integers(0, 99))
    def meets(groups, instances, length, width, dtype, number):
        inputs = case.draw(groups, instances, length, width)
        rounds = list(layout_rounds(inputs | {"dy": torch.randn_like(case.reference(**inputs))}))
        _, operands = rounds[number % len(rounds)]
        # Elements that share memory may leave a row no variance, and rounding all that is left of it.
        exact = dtype if dtype == torch.float64 else torch.float32
        dy = operands.pop("dy")
        if number % 2:
            assert_meets(case.op, case.reference, inputs, dtype, device, dy)
        else:
            assert_meets(case.op, case.reference, operands, exact, device, dy)

    meets()


def test_empty_batch(case, backend, device):
    inputs = _leaves(case.draw(0, 3, 4, 8), torch.float32, device)
    y = case.op(**inputs)
    assert y.numel() == 0 and y.shape == case.reference(**inputs).shape
    y.sum().backward()
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            assert tensor.grad.shape == tensor.shape and not tensor.grad.any(), name


def test_expanded_upstream_gradient(case, backend, device):
    """The upstream gradient of a sum over positions has stride 0 there."""
    inputs = case.draw(2, 3, 5, 12)
    shape = case.reference(**inputs).shape
    dy = torch.randn(shape[-1], dtype=torch.float64).expand(shape)
    _, gold, _ = run(case.reference, inputs, dy)
    _, ours, _ = run(case.op, {k: t.to(device) for k, t in inputs.items()}, dy)
    for name, gradient in ours.items():
        assert relative_error(gradient, gold[name]) < 1e-10, name


def test_only_the_gradients_asked_for(case, backend, device, one_backend):
    inputs = case.draw(2, 2, 3, 8)
    everything = _leaves(inputs, torch.float32, device)
    y = case.op(**everything)
    dy = torch.randn_like(y)
    y.backward(dy)
    for wanted in (k for k, t in inputs.items() if t.is_floating_point()):
        one = _leaves(inputs, torch.float32, device, (wanted,))
        case.op(**one).backward(dy)
        for name, tensor in one.items():
            if name == wanted:
                assert_agrees(tensor.grad.cpu(), everything[name].grad.cpu(), what=name)
            else:
                assert tensor.grad is None, name


def test_gradcheck(case, backend, device, deterministic, one_backend):
    inputs = _leaves(case.draw(2, 2, 3, 4), torch.float64, device)
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *tensors: case.op(**dict(zip(names, tensors, strict=True))), tuple(inputs.values()), fast_mode=True
    )


def test_second_backward_is_the_first(case, backend, device, deterministic):
    inputs = _leaves(case.draw(2, 3, 5, 12), torch.float32, device)
    y = case.op(**inputs)
    dy = torch.randn_like(y)
    floating = [t for t in inputs.values() if t.is_floating_point()]
    first = torch.autograd.grad(y, floating, dy, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(y, floating, dy), strict=True):
        assert torch.equal(a, b)


def test_two_runs_are_bit_equal(case, backend, device, deterministic, one_backend):
    # On a GPU, enough rows that several programs add to one sum; the interpreter runs one after another.
    inputs = case.draw(*((2, 3, 20, 20) if device.type == "cuda" else (2, 2, 3, 12)))
    dy = None
    results = []
    for _ in range(2):
        leaves = _leaves(inputs, torch.float32, device)
        y = case.op(**leaves)
        dy = torch.randn_like(y) if dy is None else dy
        y.backward(dy)
        results.append([y.detach(), *(t.grad for t in leaves.values() if t.is_floating_point())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_gradients_keep_their_dtype_under_autocast(case, backend, device):
    inputs = _leaves(case.draw(2, 3, 5, 12), torch.float32, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = case.op(**inputs)
    gold = case.reference(**{k: t.detach().double() if t.is_floating_point() else t for k, t in inputs.items()})
    assert relative_error(y.detach(), gold.cpu()) < 3e-2
    y.float().square().sum().backward()
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            assert tensor.grad.dtype == torch.float32 and tensor.grad.isfinite().all(), name


def test_compiles_without_a_graph_break(case, backend, device, one_backend):
    torch.compiler.reset()
    inputs = _leaves(case.draw(2, 3, 5, 12), torch.float32, device)
    floating = [t for t in inputs.values() if t.is_floating_point()]
    compiled = torch.compile(lambda **tensors: case.op(**tensors), fullgraph=True, backend="aot_eager")
    y, eager = compiled(**inputs), case.op(**inputs)
    assert relative_error(y.detach(), eager.detach().cpu()) < 1e-5
    dy = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(y, floating, dy), torch.autograd.grad(eager, floating, dy), strict=True):
        assert relative_error(a, b.cpu()) < 1e-5


def test_checkpointing_changes_nothing(case, backend, device):
    inputs = _leaves(case.draw(1, 2, 3, 12), torch.float32, device)
    floating = [t for t in inputs.values() if t.is_floating_point()]
    y, again = case.op(**inputs), checkpoint(case.op, **inputs, use_reentrant=False)
    assert_agrees(again.cpu(), y.cpu())
    dy = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(again, floating, dy), torch.autograd.grad(y, floating, dy), strict=True):
        assert_agrees(a.cpu(), b.cpu())


def test_exports(case, backend, device):
    class Module(torch.nn.Module):
        def forward(self, **inputs):
            return case.op(**inputs)

    inputs = {k: t.detach() for k, t in _leaves(case.draw(1, 2, 3, 12), torch.float32, device).items()}
    exported = torch.export.export(Module(), (), inputs).module()
    others = {k: torch.randn_like(t) if t.is_floating_point() else t for k, t in inputs.items()}
    assert relative_error(exported(**others), case.op(**others).cpu()) < 1e-5


@pytest.mark.gpu
def test_a_cuda_graph_replays_forward_and_backward(case, backend):
    inputs = _leaves(case.draw(2, 3, 5, 12), torch.float32, "cuda")
    floating = [t for t in inputs.values() if t.is_floating_point()]
    dy = torch.randn_like(case.op(**inputs)).detach()

    def step():
        y = case.op(**inputs)
        return y.detach(), *torch.autograd.grad(y, floating, dy)

    # Before the capture kernels are compiled and caches are filled, on another stream, as PyTorch asks for.
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for tensor in (*floating, dy):
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for replayed, eager in zip(captured, step(), strict=True):
        assert relative_error(replayed, eager.cpu()) < 1e-5


def test_inputs_are_left_alone(case, backend, device):
    inputs = {k: t.to(device) for k, t in case.draw(2, 3, 5, 12).items()}
    before = {k: t.clone() for k, t in inputs.items()}
    case.op(**inputs)
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name]), name
