"""`embedding_mux` and `instance_embeddings` on the torch backend, forward and backward, in blocks of instances."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._blocking import blocks
from fastmux.functional._checks import is_fake
from fastmux.functional._instance_sums import weighted_sum
from fastmux.functional._layer_norm import layer_norm, once
from fastmux.kernels.common.tensors import accumulator_dtype


class Operands(NamedTuple):
    """The tensors of `embedding_mux`: ids (G, N, L), ids of positions and types (L) or (G, N, L), tables (V, d), (P, d)
    and (T, d), LayerNorm's weight and bias (d), vectors (N, d), and the seed of dropout, an int64 of no dimensions.
    Without vectors the instances are kept apart; without dropout there is no seed."""

    ids: Tensor
    position_ids: Tensor | None
    type_ids: Tensor | None
    word: Tensor
    position: Tensor | None
    token_type: Tensor | None
    ln_weight: Tensor | None
    ln_bias: Tensor | None
    v: Tensor | None
    seed: Tensor | None = None


class Options(NamedTuple):
    """The numbers of `embedding_mux`."""

    eps: float
    scale: float
    dropout: float


def forward_torch(operands: Operands, options: Options) -> Tensor:
    ids, word, v = operands.ids, operands.word, operands.v
    groups, num_instances, length = ids.shape
    width = word.shape[1]
    embedder = _Embedder(operands, options)
    parts = blocks(word, groups, num_instances, length * width)
    if v is None:
        y = word.new_empty((groups, length, num_instances, width)).transpose(1, 2)
        for g, n in parts:
            y[g, n] = embedder.embed(g, n, affine=True).kept()
        return y
    # sum_i v_i * (w * x^_i + b) = sum_i (v_i * w) * x^_i + (sum_i v_i) * b, unless dropout stands in between.
    factors, shift = (v * options.scale).to(embedder.dtype), None
    folded = embedder.ln is not None and not options.dropout
    if folded:
        weight, bias = embedder.ln
        factors, shift = factors * weight, factors.sum(0) * bias
    if torch.compiler.is_exporting():
        y = functools.reduce(torch.add, embedder.summands(factors, affine=not folded))
    elif torch.compiler.is_compiling():
        y = weighted_sum(embedder.embed(slice(None), slice(None), affine=not folded).kept(), factors)
    else:
        y = word.new_zeros((groups, length, width), dtype=embedder.dtype)
        for g, n in parts:
            e = embedder.embed(g, n, affine=not folded).kept()
            for i, factor in enumerate(factors[n]):
                y[g].addcmul_(e[:, i], factor)
    return (y if shift is None else y.add_(once(shift))).to(word.dtype)


def backward_torch(
    dy: Tensor, operands: Operands, options: Options, paddings: tuple[int | None, int | None], need: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of word, position, token_type, ln_weight, ln_bias and v; None for those that ``need`` leaves out.

    ``paddings`` are the rows of the word and position tables that get no gradient.

    The gradients of v and of LayerNorm's weight w and bias b come from two sums for each instance, along_i = sum dy *
    x^_i and total_i = sum dy: dv_i = scale * (w * along_i + b * total_i), dw = scale * sum_i v_i * along_i and db =
    scale * sum_i v_i * total_i.
    """
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, _ = operands
    embedder = _Embedder(operands, options)
    dtype, width = embedder.dtype, word.shape[1]
    dy = dy.to(dtype)
    tables = (
        _TableGradient(word, ids, need[0], paddings[0], dtype),
        _TableGradient(position, position_ids, need[1], paddings[1], dtype),
        _TableGradient(token_type, type_ids, need[2], None, dtype),
    )
    groups, num_instances, length = ids.shape
    vectors = None if v is None else (v * options.scale).to(dtype)
    factors = word.new_ones((num_instances, width), dtype=dtype) if vectors is None else vectors
    if embedder.ln is not None:
        factors = factors * embedder.ln[0]
    need_x, need_sums = any(need[:3]), any(need[3:])
    along, total = (word.new_zeros((num_instances, width), dtype=dtype) for _ in range(2))
    if need_sums and not options.dropout:
        total = total + dy.sum((0, -2))
    for g, n in blocks(word, groups, num_instances, length * width):
        state = embedder.embed(g, n, affine=False)
        dz = dy[g, n] if v is None else dy[g, None]
        if options.dropout:
            dz = dz * state.keep
        if need_sums:
            along[n] += (dz * state.out).sum((0, 2))
        if need_sums and options.dropout:
            total[n] += dz.sum((0, 2))
        if not need_x:
            continue
        dx = dz * factors[n][:, None]
        if embedder.ln is not None:
            dx, _, _ = torch.ops.aten.native_layer_norm_backward(
                dx, state.x, [width], state.mean, state.rstd, embedder.plain[0], None, [True, False, False]
            )
        for table in tables:
            table.add(g, n, dx)
    dword, dposition, dtoken_type = (table.result() for table in tables)
    dv = along
    if embedder.ln is not None:
        weight, bias = embedder.ln
        dv = weight * along + bias * total
    if vectors is not None:
        along, total = vectors * along, vectors * total
    return (
        dword,
        dposition,
        dtoken_type,
        along.sum(0).to(ln_weight.dtype) if need[3] else None,
        total.sum(0).to(ln_bias.dtype) if need[4] else None,
        (dv * options.scale).to(v.dtype) if need[5] else None,
    )


class _State:
    """One block of instances in the embedding: x before LayerNorm, its statistics, LayerNorm's output, and dropout's
    factors."""

    __slots__ = ("keep", "mean", "out", "rstd", "x")
    x: Tensor
    mean: Tensor
    rstd: Tensor
    out: Tensor
    keep: Tensor | None

    def kept(self) -> Tensor:
        return self.out if self.keep is None else self.out * self.keep


class _Embedder:
    """Embeds blocks of instances, with the same order and the same dropout masks in forward and backward."""

    def __init__(self, operands: Operands, options: Options):
        ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, seed = operands
        self.eps, self.dropout = options.eps, options.dropout
        self.dtype = accumulator_dtype(word, v)
        self.ids, self.word, self.summed = ids, word, v is not None
        self.ln = None if ln_weight is None else (ln_weight.to(self.dtype), ln_bias.to(self.dtype))
        # A weight of 1 and a bias of 0: without these tensors PyTorch runs another loop, which is slower.
        ones = torch.ones(word.shape[1], dtype=self.dtype, device=word.device)
        self.plain = (None, None) if torch.compiler.is_compiling() else (ones, torch.zeros_like(ones))
        pairs = [(t, i) for t, i in ((position, position_ids), (token_type, type_ids)) if t is not None]
        # Rows that all instances share are looked up once.
        shared = [F.embedding(i, t).to(self.dtype) for t, i in pairs if i.dim() == 1]
        self.shared = [once(sum(shared[1:], shared[0]))] if shared else []
        self.own = [(t, i) for t, i in pairs if i.dim() > 1]
        self.generator = None
        if seed is not None and not is_fake(ids):
            self.generator = torch.Generator(ids.device).manual_seed(int(seed))

    def embed(self, g: slice, n: slice, affine: bool) -> _State:
        """Embeds one block. Without ``affine`` LayerNorm's weight and bias are not applied."""
        state = _State()
        x = F.embedding(self.ids[g, n], self.word).to(self.dtype)
        for table, ids in self.own:
            x += F.embedding(ids[g, n], table).to(self.dtype)
        for rows in self.shared:
            x += rows
        state.x = state.out = x
        if self.ln is not None:
            parameters = self.ln if affine else self.plain
            state.out, state.mean, state.rstd = layer_norm(x, *parameters, self.eps, summed=self.summed)
        state.keep = None
        if self.dropout:
            keep = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.dropout
            state.keep = keep.to(self.dtype) / (1.0 - self.dropout)
        return state

    def summands(self, factors: Tensor, affine: bool) -> Iterator[Tensor]:
        """Each instance's share of the sum, (G, L, d): for a runtime without fusion across nodes, whose tensors fit the
        cache if they hold one instance, and whose LayerNorm multiplies by a vector anyway."""
        for i, factor in enumerate(factors):
            x = F.embedding(self.ids[:, i], self.word).to(self.dtype)
            for table, ids in self.own:
                x = x + F.embedding(ids[:, i], table).to(self.dtype)
            for rows in self.shared:
                x = x + rows
            if self.ln is None or affine:
                x = x if self.ln is None else F.layer_norm(x, x.shape[-1:], *self.ln, self.eps)
                yield x * factor
            else:
                yield F.layer_norm(x, x.shape[-1:], factor, None, self.eps)


class _TableGradient:
    """The dense gradient of an embedding table, added up block by block."""

    def __init__(self, table, ids, needed, padding_idx, dtype):
        self.ids, self.table, self.padding_idx = ids, table, padding_idx
        self.grad = torch.zeros_like(table, dtype=dtype) if needed and table is not None else None

    def add(self, g: slice, n: slice, dx: Tensor) -> None:
        if self.grad is None:
            return
        if self.ids.dim() == 1:
            self.grad.index_add_(0, self.ids, dx.sum((0, 1)))
        else:
            self.grad.index_add_(0, self.ids[g, n].reshape(-1), dx.reshape(-1, dx.shape[-1]))

    def result(self) -> Tensor | None:
        if self.grad is None:
            return None
        if self.padding_idx is not None:
            self.grad[self.padding_idx] = 0
        return self.grad.to(self.table.dtype)
