"""`embedding_mux` and `instance_embeddings` on the torch backend: block by block of instances, in both directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._blocking import blocks
from fastmux.kernels.common.tensors import accumulator_dtype


class Operands(NamedTuple):
    """The tensors of `embedding_mux`: ids (G, N, L), those of positions and types (L) or (G, N, L), tables (V, d),
    (P, d) and (T, d), LayerNorm's weight and bias (d), vectors (N, d) or None to keep the instances."""

    ids: Tensor
    position_ids: Tensor | None
    type_ids: Tensor | None
    word: Tensor
    position: Tensor | None
    token_type: Tensor | None
    ln_weight: Tensor | None
    ln_bias: Tensor | None
    v: Tensor | None


class Options(NamedTuple):
    """Its numbers; ``seed`` is that of dropout, and the last two are rows without a gradient."""

    eps: float
    scale: float
    dropout: float
    seed: int
    padding_idx: int | None
    position_padding_idx: int | None


def forward_torch(operands: Operands, options: Options) -> Tensor:
    ids, word, v = operands.ids, operands.word, operands.v
    groups, num_instances, length = ids.shape
    width = word.shape[1]
    embedder = _Embedder(operands, options)
    parts = blocks(word, groups, num_instances, length * width)
    if v is None:
        y = word.new_empty((groups, length, num_instances, width)).transpose(1, 2)
        for g, n in parts:
            y[g, n] = embedder.embed(g, n).dropped
        return y
    scaled = (v * options.scale).to(embedder.dtype)
    y = word.new_zeros((groups, length, width), dtype=embedder.dtype)
    for g, n in parts:
        e = embedder.embed(g, n).dropped
        for i, weights in enumerate(scaled[n]):
            y[g].addcmul_(e[:, i], weights)
    return y.to(word.dtype)


def backward_torch(
    dy: Tensor, operands: Operands, options: Options, need: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of word, position, token_type, ln_weight, ln_bias and v; None for those that ``need`` leaves out."""
    ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v = operands
    embedder = _Embedder(operands, options)
    dtype, width = embedder.dtype, word.shape[1]
    dy = dy.to(dtype)
    scaled = None if v is None else (v * options.scale).to(dtype)
    tables = (
        _TableGradient(word, ids, need[0], options.padding_idx, dtype),
        _TableGradient(position, position_ids, need[1], options.position_padding_idx, dtype),
        _TableGradient(token_type, type_ids, need[2], None, dtype),
    )
    need_x, need_ln, need_v = any(need[:3]), need[3] or need[4], need[5]
    dln_weight = None if ln_weight is None else torch.zeros_like(ln_weight, dtype=dtype)
    dln_bias = None if ln_weight is None else torch.zeros_like(dln_weight)
    dv = torch.zeros_like(v, dtype=dtype) if need_v else None
    groups, num_instances, length = ids.shape
    for g, n in blocks(word, groups, num_instances, length * width):
        state = embedder.embed(g, n)
        dy_block = dy[g, n] if v is None else dy[g, None]
        if need_v:
            dv[n] += (dy_block * state.dropped).sum((0, 2)) * options.scale
        if not (need_x or need_ln):
            continue
        dx = dy_block if v is None else dy_block * scaled[n][:, None]
        if options.dropout:
            dx = dx * state.keep
        if ln_weight is not None:
            dx, dw, db = torch.ops.aten.native_layer_norm_backward(
                dx, state.x, [width], state.mean, state.rstd, ln_weight.to(dtype), ln_bias.to(dtype),
                [need_x, need_ln, need_ln],
            )  # fmt: skip
            if need_ln:
                dln_weight += dw
                dln_bias += db
        if need_x:
            for table in tables:
                table.add(g, n, dx)
    dword, dposition, dtoken_type = (table.result() for table in tables)
    return (
        dword,
        dposition,
        dtoken_type,
        dln_weight.to(ln_weight.dtype) if need[3] else None,
        dln_bias.to(ln_bias.dtype) if need[4] else None,
        dv.to(v.dtype) if need_v else None,
    )


class _State:
    """One block of instances on its way through the embedding: x before LayerNorm, its statistics, what comes out."""

    __slots__ = ("dropped", "keep", "mean", "rstd", "x")
    dropped: Tensor
    keep: Tensor
    mean: Tensor
    rstd: Tensor
    x: Tensor


class _Embedder:
    """The embedding of blocks of instances, in the same order and with the same dropout masks in both directions."""

    def __init__(self, operands: Operands, options: Options):
        ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v = operands
        self.eps, self.dropout = options.eps, options.dropout
        self.dtype = accumulator_dtype(word, v)
        self.ids, self.word = ids, word
        self.ln = None if ln_weight is None else (ln_weight.to(self.dtype), ln_bias.to(self.dtype))
        pairs = [(t, i) for t, i in ((position, position_ids), (token_type, type_ids)) if t is not None]
        # Rows that all instances share are looked up once.
        self.shared = sum(F.embedding(i, t).to(self.dtype) for t, i in pairs if i.dim() == 1)
        self.own = [(t, i) for t, i in pairs if i.dim() > 1]
        self.generator = torch.Generator(ids.device).manual_seed(options.seed) if self.dropout else None

    def embed(self, g: slice, n: slice) -> _State:
        state = _State()
        x = F.embedding(self.ids[g, n], self.word).to(self.dtype)
        for table, ids in self.own:
            x += F.embedding(ids[g, n], table).to(self.dtype)
        x += self.shared
        state.x = state.dropped = x
        if self.ln is not None:
            state.dropped, state.mean, state.rstd = torch.native_layer_norm(x, [x.shape[-1]], *self.ln, self.eps)
        if self.dropout:
            keep = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.dropout
            state.keep = keep.to(self.dtype) / (1.0 - self.dropout)
            state.dropped = state.dropped * state.keep
        return state


class _TableGradient:
    """The dense gradient of one embedding table, gathered block by block into one buffer."""

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
