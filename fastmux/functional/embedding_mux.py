"""`embedding_mux`: gather, LayerNorm, dropout, scale and sum over instances; (G, N, L, d) never exists.
Kernel: kernels/embedding_mux.py.

The encoder's embedding module, applied to every instance, and `hadamard_mux` in one op. `instance_embeddings` is the
module alone, for multiplexers that are no product with a vector. Backward forms each instance's
embedding again from its ids: what outlives the forward pass is ids, tables and one seed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmux.backends import choose_backend
from fastmux.functional._blocking import blocks
from fastmux.functional._checks import Shapes, check_floating, check_index


def embedding_mux(
    input_ids: Tensor,
    instance_vectors: Tensor,
    word_embeddings: Tensor,
    position_embeddings: Tensor | None = None,
    position_ids: Tensor | None = None,
    token_type_embeddings: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    ln_weight: Tensor | None = None,
    ln_bias: Tensor | None = None,
    eps: float = 1e-12,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    padding_idx: int | None = None,
    position_padding_idx: int | None = None,
) -> Tensor:
    """``scale * sum_i v_i * Dropout(LN(word[ids_i] + position[position_ids_i] + token_type[types_i]))``.

    DataMUX, section 3.1, with the embedding module of BERT or RoBERTa in front.

    Args:
        input_ids: (G, N, L) integers below V.
        instance_vectors: (N, d).
        word_embeddings: (V, d).
        position_embeddings: (P, d) or None. position_ids: (L) or (G, N, L), needed with position_embeddings.
        token_type_embeddings: (T, d) or None. token_type_ids: (L) or (G, N, L); all 0 if None.
        ln_weight, ln_bias: (d), eps: of the LayerNorm; without ln_weight there is no LayerNorm.
        scale: 1/N by default.
        dropout: probability; each element of each instance is dropped on its own, by a seed from torch's default CPU
            generator. The mask of a seed is one per backend.
        padding_idx, position_padding_idx: rows of the word and position tables that get no gradient, as in
        nn.Embedding.

    Returns:
        (G, L, d).

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or (on a CPU) an id is out of range.

    Example:
        >>> import torch
        >>> from fastmux.functional import embedding_mux
        >>> ids = torch.tensor([[[1, 2, 3], [3, 2, 1]]])
        >>> embedding_mux(ids, torch.ones(2, 4), torch.arange(16.0).view(4, 4))[0, :, 0]
        tensor([8., 8., 8.])
    """
    return _embed(
        "embedding_mux", input_ids, instance_vectors, word_embeddings, position_embeddings, position_ids,
        token_type_embeddings, token_type_ids, ln_weight, ln_bias, eps, scale, dropout, padding_idx,
        position_padding_idx,
    )  # fmt: skip


def instance_embeddings(
    input_ids: Tensor,
    word_embeddings: Tensor,
    position_embeddings: Tensor | None = None,
    position_ids: Tensor | None = None,
    token_type_embeddings: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    ln_weight: Tensor | None = None,
    ln_bias: Tensor | None = None,
    eps: float = 1e-12,
    *,
    dropout: float = 0.0,
    padding_idx: int | None = None,
    position_padding_idx: int | None = None,
) -> Tensor:
    """``x_i = Dropout(LN(word[ids_i] + position[position_ids_i] + token_type[types_i]))``: what `embedding_mux` sums.

    For multiplexers that do more than scale: x lies as their matrix product reads it, which then copies nothing.

    Args:
        input_ids, word_embeddings, ..., position_padding_idx: as in `embedding_mux`.

    Returns:
        (G, N, L, d), a view of a contiguous (G, L, N, d).

    Raises:
        ValueError: as `embedding_mux`.

    Example:
        >>> import torch
        >>> from fastmux.functional import instance_embeddings
        >>> x = instance_embeddings(torch.tensor([[[1, 2, 3], [3, 2, 1]]]), torch.arange(16.0).view(4, 4))
        >>> x[0, :, 0, 0], x.stride()
        (tensor([ 4., 12.]), (24, 4, 8, 1))
    """
    return _embed(
        "instance_embeddings", input_ids, None, word_embeddings, position_embeddings, position_ids,
        token_type_embeddings, token_type_ids, ln_weight, ln_bias, eps, 1.0, dropout, padding_idx,
        position_padding_idx,
    )  # fmt: skip


def _embed(
    op, input_ids, instance_vectors, word_embeddings, position_embeddings, position_ids, token_type_embeddings,
    token_type_ids, ln_weight, ln_bias, eps, scale, dropout, padding_idx, position_padding_idx,
) -> Tensor:  # fmt: skip
    """The arguments of both ops, checked; ``instance_vectors`` None keeps the instances."""
    shapes = Shapes(op)
    shapes.bind(input_ids=(input_ids, "GNL"), word_embeddings=(word_embeddings, "Vd"))
    if instance_vectors is not None:
        shapes.bind(instance_vectors=(instance_vectors, "Nd"))
    check_floating(
        op,
        word_embeddings=word_embeddings,
        instance_vectors=instance_vectors,
        position_embeddings=position_embeddings,
        token_type_embeddings=token_type_embeddings,
        ln_weight=ln_weight,
        ln_bias=ln_bias,
    )
    check_index(op, "input_ids", input_ids, word_embeddings.shape[0], word_embeddings)
    if input_ids.shape[1] == 0:
        raise ValueError(f"{op}: input_ids has shape {tuple(input_ids.shape)}, expected at least one instance (N >= 1)")
    if scale is None:
        scale = 1.0 / input_ids.shape[1]
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{op}: dropout is {dropout}, expected a probability in [0, 1)")
    if (ln_weight is None) != (ln_bias is None):
        raise ValueError(f"{op}: give both ln_weight and ln_bias, or neither")
    if ln_weight is not None:
        shapes.bind(ln_weight=(ln_weight, "d"), ln_bias=(ln_bias, "d"))
    if token_type_embeddings is not None and token_type_ids is None:
        token_type_ids = torch.zeros(input_ids.shape[-1], dtype=torch.long, device=input_ids.device)
    for name, table, ids, letter in (
        ("position", position_embeddings, position_ids, "P"),
        ("token_type", token_type_embeddings, token_type_ids, "T"),
    ):
        if (table is None) != (ids is None):
            raise ValueError(f"{op}: give both {name}_embeddings and {name}_ids, or neither")
        if table is not None:
            shapes.bind(**{f"{name}_embeddings": (table, letter + "d")})
            shapes.bind(**{f"{name}_ids": (ids, "L" if ids.dim() == 1 else "GNL")})
            check_index(op, f"{name}_ids", ids, table.shape[0], word_embeddings)
    # Drawn on the CPU whatever the device: no wait for the GPU, and the mask of a seed is the mask of a seed.
    seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
    return EmbeddingMux.apply(
        input_ids,
        position_ids,
        token_type_ids,
        word_embeddings,
        position_embeddings,
        token_type_embeddings,
        ln_weight,
        ln_bias,
        instance_vectors,
        (float(eps), float(scale), float(dropout), seed, padding_idx, position_padding_idx),
        choose_backend(word_embeddings),
    )


class EmbeddingMux(torch.autograd.Function):
    """With e_i the normalised, dropped-out embedding of instance i: dv_i = scale * sum dy * e_i, and scale * v_i *
    dy goes back through dropout and LayerNorm to the rows of the tables.

    On a GPU the rows of the word table (and of positions of an instance's own) are added up by atomics, in the order
    of the day; under ``torch.use_deterministic_algorithms(True)`` in a fixed one, at the price of a gradient (G, N, L,
    d) in memory.
    """

    @staticmethod
    def forward(ctx, ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, options, backend):
        tensors = (ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v)
        ctx.save_for_backward(*tensors)
        ctx.options, ctx.backend = options, backend
        if backend == "triton":
            return _forward_triton(*tensors, *options[:4])
        _, scale, *_ = options
        embedder = _Embedder(*tensors[:8], options)
        groups, num_instances, length = ids.shape
        parts = blocks(word, groups, num_instances, length * word.shape[1])
        if v is None:
            y = word.new_empty((groups, length, num_instances, word.shape[1])).transpose(1, 2)
            for g, n in parts:
                y[g, n] = embedder.embed(g, n).dropped
            return y
        scaled = (v * scale).to(embedder.dtype)
        y = word.new_zeros((groups, length, word.shape[1]), dtype=embedder.dtype)
        for g, n in parts:
            e = embedder.embed(g, n).dropped
            for i, weights in enumerate(scaled[n]):
                y[g].addcmul_(e[:, i], weights)
        return y.to(word.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        tensors = ctx.saved_tensors
        ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v = tensors
        eps, scale, dropout, seed, padding_idx, position_padding_idx = ctx.options
        need = ctx.needs_input_grad[3:9]
        if ctx.backend == "triton":
            paddings = [
                -1 if i is None else i % t.shape[0] for i, t in ((padding_idx, word), (position_padding_idx, position))
            ]
            deterministic = torch.are_deterministic_algorithms_enabled()
            gradients = _backward_triton(dy, *tensors, eps, scale, dropout, seed, *paddings, list(need), deterministic)
            return (
                None,
                None,
                None,
                *(gradient if wanted else None for gradient, wanted in zip(gradients, need, strict=True)),
                None,
                None,
            )
        embedder = _Embedder(*tensors[:8], ctx.options)
        dtype, width = embedder.dtype, word.shape[1]
        dy = dy.to(dtype)
        scaled = None if v is None else (v * scale).to(dtype)
        tables = (
            _TableGradient(word, ids, need[0], padding_idx, dtype),
            _TableGradient(position, position_ids, need[1], position_padding_idx, dtype),
            _TableGradient(token_type, type_ids, need[2], None, dtype),
        )
        need_x = any(need[:3])
        need_ln = need[3] or need[4]
        dln_weight = None if ln_weight is None else torch.zeros_like(ln_weight, dtype=dtype)
        dln_bias = None if ln_weight is None else torch.zeros_like(dln_weight)
        dv = torch.zeros_like(v, dtype=dtype) if need[5] else None
        for g, n in blocks(word, *ids.shape[:2], ids.shape[2] * width):
            state = embedder.embed(g, n)
            dy_block = dy[g, n] if v is None else dy[g, None]
            if need[5]:
                dv[n] += (dy_block * state.dropped).sum((0, 2)) * scale
            if not (need_x or need_ln):
                continue
            dx = dy_block if v is None else dy_block * scaled[n][:, None]
            if dropout:
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
        return (
            None,
            None,
            None,
            *(table.result() for table in tables),
            dln_weight.to(ln_weight.dtype) if need[3] else None,
            dln_bias.to(ln_bias.dtype) if need[4] else None,
            dv.to(v.dtype) if need[5] else None,
            None,
            None,
        )


@torch.library.custom_op("fastmux::embedding_mux_forward", mutates_args=())
def _forward_triton(
    ids: Tensor,
    position_ids: Tensor | None,
    type_ids: Tensor | None,
    word: Tensor,
    position: Tensor | None,
    token_type: Tensor | None,
    ln_weight: Tensor | None,
    ln_bias: Tensor | None,
    v: Tensor | None,
    eps: float,
    scale: float,
    dropout: float,
    seed: int,
) -> Tensor:
    from fastmux.kernels.embedding_mux import embedding_mux_forward

    return embedding_mux_forward(
        ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, eps, scale, dropout, seed
    )


@_forward_triton.register_fake
def _(ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, *_):
    groups, num_instances, length = ids.shape
    if v is None:
        return word.new_empty(groups, length, num_instances, word.shape[1]).transpose(1, 2)
    return word.new_empty(groups, length, word.shape[1])


@torch.library.custom_op("fastmux::embedding_mux_backward", mutates_args=())
def _backward_triton(
    dy: Tensor,
    ids: Tensor,
    position_ids: Tensor | None,
    type_ids: Tensor | None,
    word: Tensor,
    position: Tensor | None,
    token_type: Tensor | None,
    ln_weight: Tensor | None,
    ln_bias: Tensor | None,
    v: Tensor | None,
    eps: float,
    scale: float,
    dropout: float,
    seed: int,
    padding_idx: int,
    position_padding_idx: int,
    need: list[bool],
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from fastmux.kernels.embedding_mux import embedding_mux_backward

    return embedding_mux_backward(
        dy, ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, eps, scale, dropout, seed,
        padding_idx, position_padding_idx, need, deterministic,
    )  # fmt: skip


@_backward_triton.register_fake
def _(dy, ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, v, *rest):
    need = rest[6]
    tables = (word, position, token_type, ln_weight, ln_bias, v)
    return tuple(t.new_empty(t.shape) if wanted else dy.new_empty(0) for t, wanted in zip(tables, need, strict=True))


class _State:
    """One block of instances on its way through the embedding: x before LayerNorm, its statistics, what comes out."""

    __slots__ = ("dropped", "keep", "mean", "rstd", "x")


class _Embedder:
    """The embedding of blocks of instances, in the same order and with the same dropout masks in both directions."""

    def __init__(self, ids, position_ids, type_ids, word, position, token_type, ln_weight, ln_bias, options):
        self.eps, _, self.dropout, seed, *_ = options
        self.dtype = torch.float64 if word.dtype == torch.float64 else torch.float32
        self.ids, self.word = ids, word
        self.ln = None if ln_weight is None else (ln_weight.to(self.dtype), ln_bias.to(self.dtype))
        pairs = [(t, i) for t, i in ((position, position_ids), (token_type, type_ids)) if t is not None]
        # Rows that all instances share are looked up once.
        self.shared = sum(F.embedding(i, t).to(self.dtype) for t, i in pairs if i.dim() == 1)
        self.own = [(t, i) for t, i in pairs if i.dim() > 1]
        self.generator = torch.Generator(ids.device).manual_seed(seed) if self.dropout else None

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
