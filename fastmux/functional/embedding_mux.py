"""`embedding_mux`: gather, LayerNorm, dropout, scale and sum over instances; (G, N, L, d) never exists.
Kernel: kernels/embedding_mux.py.

One op runs the encoder's embedding module on every instance and `hadamard_mux` on the result. Backward computes each
instance's embedding again from its ids, so the forward pass saves only ids, tables and one seed.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastmux.backends import choose_backend
from fastmux.functional._checks import Shapes, check_floating, check_index
from fastmux.functional._embedding_torch import Operands, Options, backward_torch, forward_torch
from fastmux.functional._ops import asked_for, kernel_op, needed, once_differentiable, run
from fastmux.functional.derived import derived


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
    validate_ids: bool = True,
) -> Tensor:
    """``scale * sum_i v_i * Dropout(LN(word[ids_i] + position[position_ids_i] + token_type[types_i]))``.

    DataMUX, section 3.1, with the embedding module of BERT or RoBERTa in front.

    Args:
        input_ids: Integers (G, N, L) below V.
        instance_vectors: The vectors v_i, (N, d).
        word_embeddings: The word table (V, d).
        position_embeddings: The position table (P, d), or None.
        position_ids: Integers (L) or (G, N, L) below P. They are required with position_embeddings.
        token_type_embeddings: The table of token types (T, d), or None.
        token_type_ids: Integers (L) or (G, N, L) below T. All 0 if None.
        ln_weight: LayerNorm's weight (d). Without it there is no LayerNorm.
        ln_bias: LayerNorm's bias (d).
        eps: LayerNorm's epsilon.
        scale: The factor of the sum. 1/N by default.
        dropout: The probability with which each element of each instance is dropped. The seed comes from torch's
            default generator of the device that draws the mask; each backend has its own mask for a seed.
        padding_idx: The row of the word table that gets no gradient, as in nn.Embedding.
        position_padding_idx: The row of the position table that gets no gradient.
        validate_ids: Whether the values of ids are checked on a CPU. False if the caller has checked them.

    Returns:
        (G, L, d).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) an id is out of range. On a GPU a check would
            wait for the device. There the result for such an id is NaN, and so are the gradients that depend on it; no
            memory outside of a table is read or written.

    Example:
        >>> import torch
        >>> from fastmux.functional import embedding_mux
        >>> ids = torch.tensor([[[1, 2, 3], [3, 2, 1]]])
        >>> embedding_mux(ids, torch.ones(2, 4), torch.arange(16.0).view(4, 4))[0, :, 0]
        tensor([8., 8., 8.])
    """
    operands = Operands(
        input_ids, position_ids, token_type_ids, word_embeddings, position_embeddings, token_type_embeddings, ln_weight,
        ln_bias, instance_vectors,
    )  # fmt: skip
    return embed("embedding_mux", operands, eps, scale, dropout, padding_idx, position_padding_idx, validate_ids)


def embed(
    op: str, operands: Operands, eps: float, scale: float | None, dropout: float, padding_idx: int | None,
    position_padding_idx: int | None, validate_ids: bool,
) -> Tensor:  # fmt: skip
    """Checks the arguments, draws the seed and runs `embedding_mux` or, without vectors, `instance_embeddings`."""
    input_ids, position_ids, token_type_ids, word, position, token_type, ln_weight, ln_bias, vectors, _ = operands
    shapes = Shapes(op)
    shapes.bind(input_ids=(input_ids, "GNL"), word_embeddings=(word, "Vd"))
    if vectors is not None:
        shapes.bind(instance_vectors=(vectors, "Nd"))
    check_floating(
        op, word_embeddings=word, instance_vectors=vectors, position_embeddings=position,
        token_type_embeddings=token_type, ln_weight=ln_weight, ln_bias=ln_bias,
    )  # fmt: skip
    check_index(op, "input_ids", input_ids, word.shape[0] if validate_ids else None, word)
    if input_ids.shape[1] == 0:
        raise ValueError(f"{op}: input_ids has shape {tuple(input_ids.shape)}, expected at least one instance (N >= 1)")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{op}: dropout is {dropout}, expected a probability in [0, 1)")
    if (ln_weight is None) != (ln_bias is None):
        raise ValueError(f"{op}: give both ln_weight and ln_bias, or neither")
    if ln_weight is not None:
        shapes.bind(ln_weight=(ln_weight, "d"), ln_bias=(ln_bias, "d"))
    if token_type is not None and token_type_ids is None:
        length, device = input_ids.shape[-1], input_ids.device
        zeros = partial(torch.zeros, length, dtype=torch.long, device=device)
        token_type_ids = derived(("types", length, device), token_type, (), zeros)
        operands = operands._replace(type_ids=token_type_ids)
    for name, table, ids, letter in (
        ("position", position, position_ids, "P"),
        ("token_type", token_type, token_type_ids, "T"),
    ):
        if (table is None) != (ids is None):
            raise ValueError(f"{op}: give both {name}_embeddings and {name}_ids, or neither")
        if table is not None:
            both = {f"{name}_embeddings": (table, letter + "d")}
            shapes.bind(**both, **{f"{name}_ids": (ids, "L" if ids.dim() == 1 else "GNL")})
            check_index(op, f"{name}_ids", ids, table.shape[0] if validate_ids else None, word)
    backend = choose_backend(word)
    if dropout:
        # Drawn where it is read: nothing waits for a GPU, and a graph that was traced or captured draws it anew.
        place = word.device if backend == "triton" else "cpu"
        operands = operands._replace(seed=torch.randint(2**63 - 1, (), dtype=torch.int64, device=place))
    padding_idx = _row("padding_idx", op, padding_idx, word)
    position_padding_idx = _row("position_padding_idx", op, position_padding_idx, position)
    scale = float(1.0 / input_ids.shape[1] if scale is None else scale)  # while torch.jit traces, a size is a tensor
    options = Options(float(eps), scale, float(dropout))
    return run(EmbeddingMux, *operands, options, (padding_idx, position_padding_idx), backend)


def _row(name: str, op: str, index: int | None, table: Tensor | None) -> int | None:
    """Converts the number of a table's row, which may count from the end, to one from the start. None without a table.

    Raises:
        ValueError: The table has no such row.
    """
    if index is None or table is None:
        return None
    rows = table.shape[0]
    if not -rows <= index < rows:
        raise ValueError(f"{op}: {name} is {index}, expected a row of the table, from {-rows} to {rows - 1}")
    return index + rows if index < 0 else index  # no remainder: while torch.jit traces, it would be a tensor


class EmbeddingMux(torch.autograd.Function):
    """With e_i the embedding of instance i after LayerNorm and dropout, dv_i = scale * sum dy * e_i. The gradient scale
    * v_i * dy of e_i goes back through dropout and LayerNorm to the rows of the tables.

    On a GPU atomics add up the rows of the word table, and of the position table if instances differ in positions, in
    no fixed order. Under ``torch.use_deterministic_algorithms(True)`` the order is fixed, which takes a gradient
    (G, N, L, d) in memory.
    """

    @staticmethod
    def forward(ctx, *arguments) -> Tensor:
        operands, (options, paddings, backend) = arguments[:-3], arguments[-3:]
        ctx.save_for_backward(*operands)
        ctx.options, ctx.paddings, ctx.backend = options, paddings, backend
        if backend == "triton":
            return embedding_mux_forward(*operands, *options)
        return forward_torch(Operands(*operands), options)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        operands, options, paddings = Operands._make(ctx.saved_tensors), ctx.options, ctx.paddings
        need = list(ctx.needs_input_grad[3:9])
        if ctx.backend == "triton":
            deterministic = torch.are_deterministic_algorithms_enabled()
            rows = (-1 if row is None else row for row in paddings)
            gradients = embedding_mux_backward(dy, *operands, *options, *rows, need, deterministic)
        else:
            gradients = backward_torch(dy, operands, options, paddings, need)
        return asked_for(ctx, None, None, None, *gradients)


@kernel_op("embedding_mux")
def embedding_mux_forward(operands: Operands, options: Options) -> Tensor:
    (groups, num_instances, length), word = operands.ids.shape, operands.word
    if operands.v is None:
        return word.new_empty(groups, length, num_instances, word.shape[1]).transpose(1, 2)
    return word.new_empty(groups, length, word.shape[1])


@kernel_op("embedding_mux")
def embedding_mux_backward(
    dy: Tensor, operands: Operands, options: Options, padding_idx: int, position_padding_idx: int, need: list[bool],
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dword, dposition, dtoken_type, dln_weight, dln_bias, dv = (
        dy.new_empty(0) if t is None else needed(t, wanted) for t, wanted in zip(operands[3:9], need, strict=True)
    )
    return dword, dposition, dtoken_type, dln_weight, dln_bias, dv
