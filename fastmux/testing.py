"""What tests and benchmarks share: the table of ops, inputs for each, and the error that is allowed.

`OPS` lists every op with its specification and a function that draws inputs. `assert_meets` compares an op with its
specification in float64: values and gradients, relative to the size of the result. This module imports only torch and
fastmux's ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux import functional, reference

# Bounds of ||ours - gold|| / ||gold||. An op that rounds often may also err twice as much as the plain formula in its
# dtype.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = list(TOLERANCE)


def quick_interpreter() -> None:
    """Spares Triton's interpreter, where it runs, half of its time: it looks through all of `triton.language` again
    whenever one interpreted function calls another, though the kernel's launch has already replaced what it looks for.
    """
    from triton.runtime import interpreter

    language, prepare = interpreter.tl, interpreter._patch_lang

    def prepare_once(function):
        seen = [m for m in function.__globals__.values() if m is language or m is language.core]
        if seen and not any(language.core.is_builtin(module.load) for module in seen):
            return interpreter._LangPatchScope()  # with nothing to undo
        return prepare(function)

    interpreter._patch_lang = prepare_once


def relative_error(ours: Tensor, gold: Tensor) -> float:
    """||ours - gold|| / ||gold||; infinite if shapes differ, NaN if a value is NaN."""
    if ours.shape != gold.shape:
        return float("inf")
    gold = gold.detach().double()
    scale = float(gold.norm())
    return float((ours.detach().double().to(gold.device) - gold).norm()) / (scale or 1.0)


def assert_agrees(ours: Tensor, gold: Tensor, plain: Tensor | None = None, what: str = "output") -> None:
    """Asserts that ``ours`` equals ``gold`` up to rounding, which differs between processors, thread counts and
    layouts.

    The bound is relative to the size of the whole tensor, for the coarser of the two dtypes, or twice the error of
    ``plain``, another computation of the same in that dtype. Integers must be equal.
    """
    ours, gold = torch.as_tensor(ours).detach(), torch.as_tensor(gold).detach()
    assert ours.shape == gold.shape, f"{what} has shape {tuple(ours.shape)}, expected {tuple(gold.shape)}"
    if not ours.is_floating_point():
        assert torch.equal(ours, gold), f"{what} differs at {(ours != gold).nonzero().tolist()[:5]}"
        return
    dtype = max((t.dtype for t in (ours, gold)), key=TOLERANCE.__getitem__)
    _check(what, ours, gold, gold if plain is None else plain, dtype)


def allowed_error(plain: Tensor, gold: Tensor, dtype: torch.dtype) -> float:
    """The relative error that an op in ``dtype`` may have, if the plain formula in this dtype gives ``plain``."""
    return max(TOLERANCE[dtype], 2 * relative_error(plain, gold))


def run(op: Callable, inputs: dict[str, Tensor], dy: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Runs ``op(**inputs)`` and returns the output, the gradient of each floating input, and the upstream gradient."""
    leaves = {k: t.detach().requires_grad_(t.is_floating_point()) for k, t in inputs.items()}
    y = op(**leaves)
    if dy is None:
        dy = torch.randn(y.shape, dtype=torch.float64)
    y.backward(dy.to(y))
    return y.detach(), {k: t.grad for k, t in leaves.items() if t.is_floating_point()}, dy


def assert_meets(
    op: Callable,
    reference: Callable,
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    dy: Tensor | None = None,
) -> None:
    """Asserts that ``op`` in ``dtype`` on ``device`` equals ``reference`` in float64 on the same rounded inputs.

    ``inputs`` are float64 or integer tensors on the CPU, and so is ``dy``, the upstream gradient, which is drawn if
    None. They are rounded to ``dtype`` first and keep their strides.
    """
    rounded = {k: _cast(t, dtype) for k, t in inputs.items()}
    if dy is None:
        dy = run(reference, {k: _cast(t, torch.float64) for k, t in rounded.items()})[2]
    dy = _cast(dy, dtype)
    gold, gold_grads, _ = run(reference, {k: _cast(t, torch.float64) for k, t in rounded.items()}, dy)
    plain, plain_grads, _ = run(reference, rounded, dy)
    ours, grads, _ = run(op, {k: _cast(t, t.dtype, device) for k, t in rounded.items()}, _cast(dy, dtype, device))

    assert ours.shape == gold.shape, f"output has shape {tuple(ours.shape)}, the reference {tuple(gold.shape)}"
    assert ours.dtype == dtype, f"output has dtype {ours.dtype}, expected {dtype}"
    _check("output", ours, gold, plain, dtype)
    for name, gold_grad in gold_grads.items():
        assert grads[name].dtype == dtype, f"gradient of {name} has dtype {grads[name].dtype}, expected {dtype}"
        _check(f"gradient of {name}", grads[name], gold_grad, plain_grads[name], dtype)


def _cast(t: Tensor, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Copies ``t`` to ``device``, in ``dtype`` if it is floating, with its strides. ``to`` would make it dense."""
    base = torch.as_strided(t, (t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    base = base.to(device, dtype) if t.is_floating_point() else base.to(device)
    return torch.as_strided(base, t.shape, t.stride(), t.storage_offset())


def _check(what: str, ours: Tensor, gold: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    error, allowed = relative_error(ours, gold), allowed_error(plain, gold, dtype)
    if not error <= allowed:
        difference = (ours.double().cpu() - gold.double().cpu()).abs().nan_to_num(nan=float("inf"))
        at = torch.unravel_index(difference.argmax(), difference.shape) if difference.dim() else ()
        raise AssertionError(
            f"{what}: relative error {error:.2e}, allowed {allowed:.2e} in {dtype}; worst at {[int(i) for i in at]}: "
            f"ours {float(ours[at])}, plain {float(plain[at])}, float64 {float(gold[at])}"
        )


def layouts(t: Tensor) -> dict[str, Tensor]:
    """Copies of ``t`` with every kind of strides that a caller may use, by name: two dimensions transposed; every other
    element of a wider tensor, from an offset on; the first element of a dimension, expanded; overlapping windows.

    The first two kinds have the values of ``t``. In the others elements share memory, so they have some of its values.
    Memory around them is NaN, or a number that is not an id.
    """
    found, outside = {}, float("nan") if t.is_floating_point() else -99
    for k in range(t.dim()):
        for j in range(k):
            found[f"transposed_{j}_{k}"] = t.transpose(j, k).contiguous().transpose(j, k)
        wide = t.new_full((*t.shape[:k], 2 * t.shape[k] + 2, *t.shape[k + 1 :]), outside)
        index = (slice(None),) * k + (slice(1, 1 + 2 * t.shape[k], 2),)
        wide[index] = t
        found[f"sliced_{k}"] = wide[index]
        found[f"expanded_{k}"] = t.narrow(k, 0, 1).expand_as(t)
    if t.dim() > 1:
        found["windows"] = t.flatten()[: t.shape[-1] + t.shape[-2] - 1].clone().unfold(0, t.shape[-1], 1).expand_as(t)
    return found


def layout_rounds(inputs: dict[str, Tensor]) -> Iterator[tuple[dict[str, str], dict[str, Tensor]]]:
    """Yields the names of layouts and the inputs in these, until every operand has had every layout that its rank
    allows. In each round only one operand's elements share memory, so that rows keep a variance."""
    found = {name: layouts(tensor) for name, tensor in inputs.items()}
    shared = {name: [k for k in kinds if k.startswith(("expanded", "windows"))] for name, kinds in found.items()}
    own = {name: [k for k in kinds if k not in shared[name]] for name, kinds in found.items()}
    rounds = ((name, kind) for name, kinds in shared.items() for kind in kinds)
    for number, (chosen, kind) in enumerate(rounds):
        kinds = {name: kinds[(number + turn) % len(kinds)] for turn, (name, kinds) in enumerate(own.items())}
        kinds[chosen] = kind
        yield kinds, {name: found[name][kind] for name, kind in kinds.items()}


@dataclass(frozen=True)
class Op:
    """An op and its specification: ``op(**inputs)`` must equal ``reference(**inputs)``. ``draw(G, N, L, d)`` draws
    float64 inputs. ``backends`` lists the backends on which the op differs."""

    op: Callable
    reference: Callable
    draw: Callable[[int, int, int, int], dict[str, Tensor]]
    backends: tuple[str, ...] = ("torch", "triton")


def normal(*shape: int) -> Tensor:
    """Normal values with a mean other than 0, which reveals inaccurate statistics."""
    return torch.randn(shape, dtype=torch.float64) - 0.7


def orthogonal(num: int, width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(num, width, width, dtype=torch.float64))[0]


def layer_norm(width: int) -> dict[str, Tensor]:
    return {"ln_weight": normal(width) + 1.7, "ln_bias": normal(width)}


def hadamard_mux(g, n, l, d):
    return {"x": normal(g, n, l, d), "instance_vectors": normal(n, d)}


def orthogonal_mux(g, n, l, d):
    return {"x": normal(g, n, l, d), "instance_matrices": orthogonal(n, d)}


def walsh_hadamard_mux(g, n, l, d):
    """Inputs of the largest width up to d that has a Hadamard matrix."""
    width = max(m << k for m in (1, 12, 20, 28) for k in range(13) if m << k <= d)
    signs = {name: torch.randint(0, 2, (n, width), dtype=torch.int8) * 2 - 1 for name in ("inner_signs", "outer_signs")}
    return {"x": normal(g, n, l, width)} | signs


def walsh_hadamard(g, n, l, d):
    return {"x": walsh_hadamard_mux(g, n, l, d)["x"]}


def embedding_mux(g, n, l, d):
    return {
        "input_ids": torch.randint(0, 11, (g, n, l)),
        "instance_vectors": normal(n, d),
        "word_embeddings": normal(11, d),
        "position_embeddings": normal(l + 3, d),
        "position_ids": torch.randint(0, l + 3, (g, n, l)),
        "token_type_embeddings": normal(2, d),
        "token_type_ids": torch.randint(0, 2, (g, n, l)),
        **layer_norm(d),
    }


def instance_embeddings(g, n, l, d):
    inputs = embedding_mux(g, n, l, d)
    del inputs["instance_vectors"]
    return inputs


def pair_norm(g, n, l, d):
    """Centred inputs; `index_demux` says why."""
    return {"a": normal(g, l, d) + 0.7, "b": normal(g, n, d) + 0.7, **layer_norm(d)}


def index_demux(g, n, l, d):
    width = d**-0.5
    return {
        "h": normal(g, l, d),
        "p": normal(g, n, d),
        "weight": normal(d, 2 * d) * width,
        # If GELU maps a whole row to almost 0, LayerNorm magnifies rounding in any implementation. So GELU's input is
        # centred, or above 0, as the product of two means below 0 is.
        "bias": normal(d) + 0.7,
        **layer_norm(d),
    }


def key_demux(g, n, l, d):
    inputs = index_demux(g, n, l, d)
    del inputs["p"]
    return inputs | {"instance_keys": normal(n, d)}


def mlp_demux(g, n, l, d):
    own = {"weight": normal(n, d, d) * d**-0.5, "bias": normal(n, d) + 0.7}
    return {"h": normal(g, l, d), **own, "ln_weight": normal(n, d) + 1.7, "ln_bias": normal(n, d)}


def unbind_demux(g, n, l, d):
    inputs = index_demux(g, n, l, d)
    inputs.pop("p")
    inputs["weight"] = (normal(d, d) + 0.7) * d**-0.5
    return inputs | {"transforms": normal(n, d)}


def unbind_demux_orthogonal(g, n, l, d):
    return unbind_demux(g, n, l, d) | {"transforms": orthogonal(n, d)}


def unbind_demux_elementwise(g, n, l, d):
    inputs = unbind_demux(g, n, l, d)
    return {k: inputs[k] for k in ("h", "transforms", "ln_weight", "ln_bias")}


def _drawn(draw: Callable) -> Callable:
    """Inputs with one instance drawn at every position, as in retrieval."""
    return lambda g, n, l, d: draw(g, n, l, d) | {"instances": torch.randint(0, n, (g, l))}


def _with_head(draw: Callable) -> Callable:
    """Inputs with a linear head of five labels."""

    def draws(g, n, l, d):
        return draw(g, n, l, d) | {"head_weight": normal(5, d) * d**-0.5, "head_bias": normal(5)}

    return draws


def _headed(reference: Callable) -> Callable:
    return lambda head_weight, head_bias, **inputs: F.linear(reference(**inputs), head_weight, head_bias)


def _keys(op: Callable) -> Callable:
    return lambda instance_keys, **inputs: op(p=instance_keys, **inputs)


def _elementwise(op: Callable) -> Callable:
    return lambda **inputs: op(weight=None, bias=None, **inputs)


def _walsh_hadamard_by_definition(x: Tensor) -> Tensor:
    return x @ (reference.hadamard_matrix(x.shape[-1]) * x.shape[-1] ** -0.5).to(x).T


_index, _unbind, _no_linear = functional.index_demux, functional.unbind_demux, unbind_demux_elementwise
OPS = {
    "hadamard_mux": Op(functional.hadamard_mux, reference.hadamard_mux, hadamard_mux),
    "orthogonal_mux": Op(functional.orthogonal_mux, reference.orthogonal_mux, orthogonal_mux, ("torch",)),
    "walsh_hadamard_mux": Op(functional.walsh_hadamard_mux, reference.walsh_hadamard_mux, walsh_hadamard_mux),
    "walsh_hadamard": Op(functional.walsh_hadamard, _walsh_hadamard_by_definition, walsh_hadamard, ("torch",)),
    "embedding_mux": Op(functional.embedding_mux, reference.embedding_mux, embedding_mux),
    "instance_embeddings": Op(functional.instance_embeddings, reference.instance_embeddings, instance_embeddings),
    "pair_norm": Op(functional.pair_norm, reference.pair_norm, pair_norm),
    "pair_norm-drawn": Op(functional.pair_norm, reference.pair_norm, _drawn(pair_norm)),
    "pair_norm-head": Op(functional.pair_norm, _headed(reference.pair_norm), _with_head(pair_norm)),
    "index_demux": Op(_index, reference.index_demux, index_demux),
    "index_demux-drawn": Op(_index, reference.index_demux, _drawn(index_demux)),
    "index_demux-head": Op(_index, _headed(reference.index_demux), _with_head(index_demux)),
    "key_demux": Op(_keys(_index), reference.key_demux, key_demux),
    "mlp_demux": Op(functional.mlp_demux, reference.mlp_demux, mlp_demux, ("torch",)),
    "mlp_demux-drawn": Op(functional.mlp_demux, reference.mlp_demux, _drawn(mlp_demux), ("torch",)),
    "unbind_demux": Op(_unbind, reference.unbind_demux, unbind_demux),
    "unbind_demux-drawn": Op(_unbind, reference.unbind_demux, _drawn(unbind_demux)),
    "unbind_demux-head": Op(_unbind, _headed(reference.unbind_demux), _with_head(unbind_demux)),
    "unbind_demux-orthogonal": Op(_unbind, reference.unbind_demux, unbind_demux_orthogonal),
    "unbind_demux-orthogonal-drawn": Op(_unbind, reference.unbind_demux, _drawn(unbind_demux_orthogonal)),
    "unbind_demux-elementwise": Op(_elementwise(_unbind), _elementwise(reference.unbind_demux), _no_linear),
    "unbind_demux-elementwise-drawn": Op(
        _elementwise(_unbind), _elementwise(reference.unbind_demux), _drawn(_no_linear), ("triton",)
    ),
    "unbind_demux-elementwise-head": Op(
        _elementwise(_unbind), _headed(_elementwise(reference.unbind_demux)), _with_head(_no_linear), ("triton",)
    ),
}
