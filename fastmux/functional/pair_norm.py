"""`pair_norm`: add, GELU and LayerNorm for all pairs of instance and position. `index_demux` and `unbind_demux` call it
after their linear layers. Kernels: kernels/pair_norm.py and, with a linear head, kernels/pair_norm_head.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.backends import choose_backend
from fastmux.functional._blocking import WHOLE_ELEMENTS, blocks
from fastmux.functional._checks import Shapes, check_floating, check_index
from fastmux.functional._folded_head import folded_head
from fastmux.functional._layer_norm import layer_norm
from fastmux.functional._ops import asked_for, kernel_op, needed, needs_grad, once_differentiable, run
from fastmux.kernels.common.tensors import accumulator_dtype, gradient_like

#: The elements of a block on a CPU, four times the default, and those that are one block in backward. Found by timing
#: both directions.
BLOCK_ELEMENTS = 1 << 19
ONE_BLOCK_ELEMENTS = 1 << 20
TRITON_LABELS = 64  # the most labels of a head that runs inside the kernel


class Norm(NamedTuple):
    """A LayerNorm over d features: weight (d), bias (d) and epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float


class Head(NamedTuple):
    """A linear head on demultiplexed states: weight (C, d), bias (C) or None. Both are None where there is no head."""

    weight: Tensor | None
    bias: Tensor | None

    def __call__(self, z: Tensor) -> Tensor:
        return F.linear(z, *self)


NO_HEAD = Head(None, None)


def pair_norm(
    a: Tensor,
    b: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    *,
    instances: Tensor | None = None,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
) -> Tensor:
    """``z[g, n, l] = LN(GELU(a[g, l] + b[g, n]))`` for all n, or only for ``n = instances[g, l]``.

    Args:
        a: The positions' term (G, L, d).
        b: The instances' term (G, N, d).
        ln_weight, ln_bias: LayerNorm's weight and bias, (d).
        eps: LayerNorm's epsilon.
        instances: Integers (G, L): the only instance to compute at each position.
        head_weight, head_bias: A linear head, (C, d) and (C). The result is then its logits.

    Returns:
        (G, N, L, d), or (G, L, d) with ``instances``; C in place of d with a head. In the dtype of ``a``, computed in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) an instance is out of range.
    """
    shapes = Shapes("pair_norm")
    shapes.bind(a=(a, "GLd"), b=(b, "GNd"), ln_weight=(ln_weight, "d"), ln_bias=(ln_bias, "d"))
    check_floating("pair_norm", a=a, b=b, ln_weight=ln_weight, ln_bias=ln_bias, head_weight=head_weight)
    if instances is not None:
        shapes.bind(instances=(instances, "GL"))
        check_index("pair_norm", "instances", instances, b.shape[1], a)
        instances = instances.long()
    shapes.bind_head(head_weight, head_bias)
    norm, head = Norm(ln_weight, ln_bias, float(eps)), Head(head_weight, head_bias)
    return apply_pair_norm(a, b, instances, norm, head, choose_backend(a))


def linear_gelu_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    *,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
) -> Tensor:
    """``LN(GELU(W x + b))``: x (..., L, d), weight (d, d), bias, ln_weight and ln_bias (d) -> (..., L, d). With a head,
    as in `pair_norm`, its logits (..., L, C).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit.
    """
    projected = F.linear(x, weight)
    # `pair_norm` with one group for each leading index and one instance, whose b is the bias.
    rows = projected.flatten(0, -3)
    shift = torch.zeros_like(ln_bias) if bias is None else bias
    shift = shift.to(rows.dtype).expand(rows.shape[0], 1, -1)
    z = pair_norm(rows, shift, ln_weight, ln_bias, eps, head_weight=head_weight, head_bias=head_bias)
    return z.view(*projected.shape[:-1], z.shape[-1])


def apply_pair_norm(
    a: Tensor, b: Tensor, instances: Tensor | None, norm: Norm, head: Head, backend: str, product: bool = False
) -> Tensor:
    """`pair_norm` without its checks. On the triton backend, ``product`` replaces GELU(a + b) by a * b, and a may be
    (G / I, I, L, d), of any strides."""
    labels = 0 if head.weight is None else head.weight.shape[0]
    if backend == "triton" and instances is None and 0 < labels <= TRITON_LABELS:
        parameters = (*norm[:2], *head)
        return run(PairNormHead, a, b, *parameters, norm.eps, product, needs_grad(a, b, *parameters))
    # The torch backend applies a head while a block of z is in the cache. Under autocast PyTorch chooses the dtype of
    # the product. With ``instances``, z is no larger than h.
    fused = head.weight is None or (backend == "torch" and not torch.is_autocast_enabled(a.device.type))
    y = run(PairNorm, a, b, instances, *norm[:2], *(head if fused else NO_HEAD), norm.eps, backend, product)
    return y if fused else head(y)


class PairNorm(torch.autograd.Function):
    """With u = a + b, x = GELU(u), x^ its standardised row and s the reciprocal standard deviation:

    du = s * (c - mean(c) - x^ * mean(c * x^)) * GELU'(u) with c = dz * ln_weight;  da = sum_n du, db = sum_l du;
    dln_weight = sum dz * x^, dln_bias = sum dz. With a head, dz = dy @ head_weight and dhead_weight = sum dy^T z.
    Only a and b are saved, and on the torch backend each row's mean and s. Everything else is computed again.
    """

    @staticmethod
    def forward(ctx, a, b, instances, ln_weight, ln_bias, head_weight, head_bias, eps, backend, product) -> Tensor:
        inputs = (a, b, instances, ln_weight, ln_bias, head_weight, head_bias)
        ctx.eps, ctx.backend, ctx.product = eps, backend, product
        mean, rstd = None, None
        if backend == "triton":
            y = pair_norm_forward(a, b, instances, ln_weight, ln_bias, eps, product)
        else:
            y, mean, rstd = _forward_torch(*inputs, eps)
        ctx.save_for_backward(*inputs, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        a, b, instances, ln_weight, ln_bias, head_weight, head_bias, mean, rstd = ctx.saved_tensors
        _, need_b, _, need_weight, need_bias, need_head, need_head_bias, *_ = ctx.needs_input_grad
        need_ln, dhead, dhead_bias = need_weight or need_bias, None, None
        if ctx.backend == "triton":
            gradients = pair_norm_backward(dy, a, b, instances, ln_weight, ctx.eps, need_b, need_ln, ctx.product)
        else:
            *gradients, dhead = _backward_torch(
                dy, a, b, instances, ln_weight, ln_bias, head_weight, mean, rstd, need_b, need_ln, need_head
            )
        da, db, dweight, dbias = gradients
        if need_head_bias:
            dhead_bias = dy.flatten(0, -2).sum(0, dtype=accumulator_dtype(dy)).to(head_bias.dtype)
        return asked_for(ctx, da, db, None, dweight, dbias.to(ln_bias.dtype), dhead, dhead_bias)


@kernel_op("pair_norm")
def pair_norm_forward(
    a: Tensor, b: Tensor, instances: Tensor | None, ln_weight: Tensor, ln_bias: Tensor, eps: float, product: bool
) -> Tensor:
    shape = a.shape[:-1] if instances is not None else (b.shape[0], b.shape[1], a.shape[-2])
    return a.new_empty(*shape, a.shape[-1])


@kernel_op("pair_norm")
def pair_norm_backward(
    dz: Tensor,
    a: Tensor,
    b: Tensor,
    instances: Tensor | None,
    ln_weight: Tensor,
    eps: float,
    need_b: bool,
    need_ln: bool,
    product: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return gradient_like(a), needed(b, need_b), needed(ln_weight, need_ln), needed(ln_weight, need_ln)


class PairNormHead(torch.autograd.Function):
    """`PairNorm` and the head on the triton backend, in one kernel that does not write z. With ``need_grad`` it saves,
    besides the inputs, the logits before the shift and LayerNorm's statistics: in backward no program sees a whole
    row."""

    @staticmethod
    def forward(ctx, a, b, ln_weight, ln_bias, head_weight, head_bias, eps, product, need_grad) -> Tensor:
        inputs = (a, b, ln_weight, ln_bias, head_weight, head_bias)
        logits, *saved = pair_norm_head_forward(*inputs, eps, product, need_grad)
        ctx.save_for_backward(*saved, *inputs)
        ctx.product = product
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, dlogits: Tensor):
        _, need_b, *need_parameters = ctx.needs_input_grad[:6]
        gradients = pair_norm_head_backward(dlogits, *ctx.saved_tensors, ctx.product, need_b, any(need_parameters))
        return asked_for(ctx, *gradients)


@kernel_op("pair_norm_head", lambda *given: (*given[:2], *folded_head(*given[:6]), *given[6:]))
def pair_norm_head_forward(
    a: Tensor,
    b: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    eps: float,
    product: bool,
    need_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, labels = (b.shape[0], b.shape[1], a.shape[-2]), head_weight.shape[0]
    t, mean, rstd = (
        a.new_empty(size if need_statistics else (0,), dtype=accumulator_dtype(a, b))
        for size in ((*rows, labels), rows, rows)
    )
    return a.new_empty(*rows, labels), t, mean, rstd


@kernel_op("pair_norm_head", lambda *given: (*given, folded_head(*given[4:10])[0]))
def pair_norm_head_backward(
    dlogits: Tensor,
    t: Tensor,
    mean: Tensor,
    rstd: Tensor,
    a: Tensor,
    b: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    product: bool,
    need_b: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = head_weight[:, 0] if head_bias is None else head_bias
    parameters = (needed(t, need_parameters) for t in (ln_weight, ln_bias, head_weight, bias))
    return gradient_like(a), needed(b, need_b), *parameters


def _pair(a: Tensor, b: Tensor, instances: Tensor | None) -> Tensor:
    """u = a + b for all pairs, (G, N, L, d), or for those of ``instances``, (G, L, d)."""
    if instances is None:
        return a[:, None] + b[:, :, None]
    return a + b.gather(1, instances[..., None].expand(-1, -1, b.shape[-1]))


def _blocks(a: Tensor, b: Tensor, instances: Tensor | None, whole: int) -> list[tuple[slice, slice]]:
    if instances is not None:
        return [(slice(None), slice(None))]  # no larger than a itself
    return blocks(a, b.shape[0], b.shape[1], a.shape[1] * a.shape[2], BLOCK_ELEMENTS, whole)


def _forward_torch(
    a, b, instances, ln_weight, ln_bias, head_weight, head_bias, eps
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Returns z or the logits, and each row's mean and reciprocal standard deviation."""
    out, width = None, list(a.shape[-1:])
    columns = width[0] if head_weight is None else head_weight.shape[0]
    shape = a.shape[:-1] if instances is not None else (a.shape[0], b.shape[1], a.shape[1])
    acc = accumulator_dtype(a)
    ln_weight, ln_bias = ln_weight.to(acc), ln_bias.to(acc)
    parts = _blocks(a, b, instances, WHOLE_ELEMENTS)
    if len(parts) > 1:
        mean, rstd = (a.new_empty((*shape, 1), dtype=acc) for _ in range(2))
    for g, n in parts:
        x = F.gelu(_pair(a[g].to(acc), b[g, n], instances)).to(acc)
        z, mean_block, rstd_block = layer_norm(x, ln_weight, ln_bias, eps)
        z = z.to(a.dtype)
        if head_weight is not None:
            z = F.linear(z, head_weight, head_bias)
        if len(parts) == 1:
            return z, mean_block, rstd_block
        out = z.new_empty((*shape, columns)) if out is None else out
        out[g, n], mean[g, n], rstd[g, n] = z, mean_block, rstd_block
    if out is None:
        return a.new_empty((*shape, columns)), None, None
    return out, mean, rstd


def _backward_torch(dy, a, b, instances, ln_weight, ln_bias, head_weight, mean, rstd, need_b, need_ln, need_head):
    width, acc = list(a.shape[-1:]), accumulator_dtype(a)
    da = torch.zeros_like(a, dtype=acc, memory_format=torch.contiguous_format)
    db = torch.zeros_like(b, dtype=acc, memory_format=torch.contiguous_format) if need_b else None
    dw, dbias = (torch.zeros_like(ln_weight, dtype=acc) for _ in range(2))
    dhead = torch.zeros_like(head_weight, dtype=acc) if need_head else None
    ln_weight_acc, ln_bias_acc = ln_weight.to(acc), ln_bias.to(acc)
    head_acc = None if head_weight is None else head_weight.to(acc)
    for g, n in _blocks(a, b, instances, ONE_BLOCK_ELEMENTS):
        u = _pair(a[g].to(acc), b[g, n], instances).to(acc)
        x = F.gelu(u)
        at = ... if instances is not None else (g, n)
        dz, mean_block, rstd_block = dy[at].to(acc), mean[at], rstd[at]
        if head_weight is not None:
            if need_head:
                z = ((x - mean_block) * rstd_block) * ln_weight_acc + ln_bias_acc
                dhead += dz.flatten(0, -2).T @ z.flatten(0, -2)
            dz = dz @ head_acc
        dx, dw_block, dbias_block = torch.ops.aten.native_layer_norm_backward(
            dz, x, width, mean_block, rstd_block, ln_weight_acc, ln_bias_acc, [True, need_ln, need_ln]
        )
        du = torch.ops.aten.gelu_backward(dx, u)
        if instances is not None:
            da = du
            if need_b:
                db = F.one_hot(instances, b.shape[1]).to(acc).mT @ du
        else:
            for rows in du.unbind(1):
                da[g] += rows
            if need_b:
                db[g, n] = du.sum(2)
        if need_ln:
            dw += dw_block
            dbias += dbias_block
    return (
        da.to(a.dtype),
        db.to(b.dtype) if need_b else None,
        dw.to(ln_weight.dtype),
        dbias.to(ln_weight.dtype),
        dhead.to(head_weight.dtype) if need_head else None,
    )
