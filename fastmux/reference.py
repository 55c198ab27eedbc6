"""The specification: data multiplexing in plain PyTorch, the way the papers write it.

Nothing here is fast and nothing here is called in production. Every function concatenates, expands and averages as
the formulas say, differentiates through autograd and works in any floating dtype; tests and benchmarks hold
`fastmux.functional` to these functions in float64.

Shapes: G mux groups, N instances, L positions, width d, V vocabulary entries; row ``g * N + i`` of a batch is
instance i of group g.

Sources: DataMUX (Murahari et al., NeurIPS 2022, arXiv 2202.09318) sections 3.1-3.3; MUX-PLM (Murahari et al., 2023,
arXiv 2302.12441) section 3 and its published code; `unbind_demux` is fastmux's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hadamard_mux(x: Tensor, instance_vectors: Tensor, scale: float | None = None) -> Tensor:
    """``y = scale * sum_i v_i * x_i``: x (G, N, L, d), instance_vectors (N, d) -> (G, L, d); scale 1/N by default."""
    if scale is None:
        scale = 1.0 / x.shape[1]
    return scale * (instance_vectors[None, :, None, :] * x).sum(dim=1)


def orthogonal_mux(x: Tensor, instance_matrices: Tensor, scale: float | None = None) -> Tensor:
    """``y = scale * sum_i O_i x_i``: x (G, N, L, d), instance_matrices (N, d, d) -> (G, L, d); scale 1/sqrt(N)."""
    if scale is None:
        scale = x.shape[1] ** -0.5
    return scale * (instance_matrices[None, :, None] @ x[..., None]).squeeze(-1).sum(dim=1)


def attention_mux(x: Tensor, instance_vectors: Tensor, over_positions, over_instances) -> Tensor:
    """MUX-PLM's contextual multiplexer: mix the positions of each instance, bind, mix the instances at each position,
    average.

    x (G, N, L, d), instance_vectors (N, d); over_positions maps (G, L, d) and i, the instance, to (G, L, d), and
    over_instances maps (G, N, d) and l, the position, to (G, N, d) -> (G, L, d).
    """
    _, num_instances, length, _ = x.shape
    bound = torch.stack(
        [instance_vectors[i] * (x[:, i] + over_positions(x[:, i], i)) for i in range(num_instances)], dim=1
    )
    columns = [bound[:, :, l] + over_instances(bound[:, :, l], l) for l in range(length)]
    return torch.stack([column.mean(1) for column in columns], dim=1)


def rotation_mux(x: Tensor) -> Tensor:
    """``y = 1/N sum_i R_i x_i``, image i turned by 2 pi i / N about its centre (DataMUX, section 5): x (G, N, C, H, W)
    -> (G, C, H, W). Bilinear: a pixel counts (1 - |rows apart|) (1 - |columns apart|)."""
    r, c = (torch.arange(size, dtype=x.dtype) - (size - 1) / 2 for size in x.shape[-2:])
    turned = []
    for i, angle in enumerate(2 * torch.pi * torch.arange(x.shape[1], dtype=x.dtype) / x.shape[1]):
        row = angle.cos() * r[:, None] + angle.sin() * c  # where pixel (h, w) of the turned image was
        column = angle.cos() * c - angle.sin() * r[:, None]
        of_rows, of_columns = (1 - (row[..., None] - r).abs()).relu(), (1 - (column[..., None] - c).abs()).relu()
        turned.append(torch.einsum("gcyx,hwy,hwx->gchw", x[:, i], of_rows, of_columns))
    return torch.stack(turned).mean(0)


def convolution_mux(x: Tensor, *layers: tuple, activation=torch.positive) -> Tensor:
    """``y = 1/N sum_i a(K_i * x_i)`` with several layers K one after the other (DataMUX, section 5): x (G, N, C, H, W),
    of each layer (weights (N, C', C, k, k), biases (N, C') or None) -> (G, C', H, W)."""
    images = list(x.unbind(1))
    for weights, biases in layers:
        for i, weight in enumerate(weights):
            images[i] = activation(F.conv2d(images[i], weight, None if biases is None else biases[i], padding="same"))
    return torch.stack(images).mean(0)


def hadamard_matrix(order: int) -> Tensor:
    """A Hadamard matrix of order m * 2^k, m in {1, 12, 20, 28}: entries +1 and -1, orthogonal rows; float64.

    Sylvester's construction doubles it: H_2n is [[H, H], [H, -H]] with the factor of order m outside, H_m (x) H_2^k.
    Orders 12 and 20 are Paley's first construction over q = 11 and 19, order 28 his second over q = 13. In general
    H is not symmetric: its inverse is the transpose, over the order.
    """
    m, q = {1: (1, 1), 3: (12, 11), 5: (20, 19), 7: (28, 13)}[order // (order & -order)]
    outer = torch.ones(1, 1, dtype=torch.float64)
    if m > 1:
        squares = {i * i % q for i in range(1, q)}
        skew = -1 if q % 4 == 3 else 1
        conference = torch.ones(q + 1, q + 1, dtype=torch.float64)
        conference[0, 0], conference[1:, 0] = 0, skew
        for i in range(q):
            for j in range(q):
                conference[i + 1, j + 1] = 0 if i == j else 1 if (i - j) % q in squares else -1
        eye = torch.eye(q + 1, dtype=torch.float64)
        if skew < 0:
            outer = eye + conference
        else:
            plus, minus = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[1.0, -1.0], [-1.0, -1.0]]], dtype=torch.float64)
            outer = torch.kron(conference, plus) + torch.kron(eye, minus)
    while outer.shape[0] < order:
        outer = torch.kron(outer, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return outer


def walsh_hadamard_mux(x: Tensor, inner_signs: Tensor, outer_signs: Tensor, scale: float | None = None) -> Tensor:
    """`orthogonal_mux` with ``O_i = H D_i H D'_i``, H orthonormal: x (G, N, L, d), the diagonals D' (inner_signs) and D
    (outer_signs) of signs (N, d) -> (G, L, d)."""
    h = (hadamard_matrix(x.shape[-1]) * x.shape[-1] ** -0.5).to(x)
    inner, outer = (signs.to(x) for signs in (inner_signs, outer_signs))
    return orthogonal_mux(x, h @ (outer[:, :, None] * h * inner[:, None, :]), scale)


def instance_embeddings(
    input_ids: Tensor,
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    position_ids: Tensor,
    token_type_embeddings: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    ln_weight: Tensor | None = None,
    ln_bias: Tensor | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """Embed every instance as BERT does.

    input_ids, position_ids, token_type_ids (G, N, L); tables (V, d), (P, d), (T, d) -> (G, N, L, d).
    """
    x = word_embeddings[input_ids] + position_embeddings[position_ids]
    if token_type_embeddings is not None:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = x + token_type_embeddings[token_type_ids]
    return F.layer_norm(x, x.shape[-1:], ln_weight, ln_bias, eps)


def embedding_mux(input_ids: Tensor, instance_vectors: Tensor, *tables, scale: float | None = None, **named) -> Tensor:
    """`instance_embeddings`, then `hadamard_mux`.

    input_ids (G, N, L), instance_vectors (N, d), then what `instance_embeddings` takes -> (G, L, d).
    """
    return hadamard_mux(instance_embeddings(input_ids, *tables, **named), instance_vectors, scale)


def _select(z: Tensor, instances: Tensor | None) -> Tensor:
    """z (G, N, L, d), instances (G, L) -> (G, L, d): the drawn instance of every position."""
    if instances is None:
        return z
    index = instances[:, None, :, None].expand(-1, 1, -1, z.shape[-1])
    return z.gather(1, index).squeeze(1)


def index_demux(
    h: Tensor,
    p: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN(GELU(W [p_i ; h_j] + b))`` (DataMUX 3.2, "index embeddings").

    h (G, L, d) hidden states, p (G, N, d) the backbone's output at the index prefix, weight (d, 2d) -> (G, N, L, d),
    or (G, L, d) with ``instances`` (G, L), the one instance wanted at each position.
    """
    groups, length, width = h.shape
    num_instances = p.shape[1]
    pairs = torch.cat(
        [
            p[:, :, None, :].expand(groups, num_instances, length, width),
            h[:, None, :, :].expand(groups, num_instances, length, width),
        ],
        dim=-1,
    )
    z = F.layer_norm(F.gelu(F.linear(pairs, weight, bias)), (width,), ln_weight, ln_bias, eps)
    return _select(z, instances)


def pair_norm(
    a: Tensor, b: Tensor, ln_weight: Tensor, ln_bias: Tensor, eps: float = 1e-12, instances: Tensor | None = None
) -> Tensor:
    """``LN(GELU(a_j + b_i))``: `index_demux` behind its linear layer, of which a = W_h h and b = W_p p + bias.

    a (G, L, d), b (G, N, d) -> (G, N, L, d), or (G, L, d) with ``instances`` (G, L).
    """
    z = F.layer_norm(F.gelu(a[:, None] + b[:, :, None]), a.shape[-1:], ln_weight, ln_bias, eps)
    return _select(z, instances)


def key_demux(
    h: Tensor,
    instance_keys: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """`index_demux` with learned keys (N, d), the same for every group, in place of index states (MUX-PLM, RSA)."""
    p = instance_keys[None].expand(h.shape[0], -1, -1)
    return index_demux(h, p, weight, bias, ln_weight, ln_bias, eps, instances)


def rsa_demux(h: Tensor, instance_keys: Tensor, dense: list[tuple], output: tuple, ln: tuple) -> Tensor:
    """MUX-PLM's RSA demultiplexer, as its checkpoints have it: residual layers on [k_i ; h_j], and LN(GELU(.)) last.

    h (G, L, d), instance_keys (N, d), dense and output (weight, bias) of linear layers, of which the first is (d, 2d),
    ln (weight, bias, eps) -> (G, N, L, d).
    """
    (groups, length, width), n = h.shape, instance_keys.shape[0]
    keys = instance_keys[None, :, None].expand(groups, n, length, width)
    x = torch.cat([keys, h[:, None].expand(groups, n, length, width)], dim=-1)
    for m, layer in enumerate(dense):
        y = F.gelu(F.linear(x, *layer))
        x = y if m == 0 else x + y
    weight, bias, eps = ln
    return x + F.layer_norm(F.gelu(F.linear(x, *output)), (width,), weight, bias, eps)


def rsa_retrieval(h: Tensor, instance_keys: Tensor, dense: list[tuple], ln: list[tuple], residual: bool) -> Tensor:
    """The states that retrieval decodes behind `rsa_demux`: the same keys, with a LayerNorm after every layer.

    Arguments as there, with one of ln for each of dense; residual: with skip connections from the second layer on.
    """
    (groups, length, width), n = h.shape, instance_keys.shape[0]
    keys = instance_keys[None, :, None].expand(groups, n, length, width)
    x = torch.cat([keys, h[:, None].expand(groups, n, length, width)], dim=-1)
    for m, (layer, (weight, bias, eps)) in enumerate(zip(dense, ln, strict=True)):
        y = F.layer_norm(F.gelu(F.linear(x, *layer)), (width,), weight, bias, eps)
        x = x + y if residual and m else y
    return x


def mlp_demux(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN_i(GELU(W_i h_j + b_i))`` (DataMUX 3.2, "MLP demuxing").

    h (G, L, d); weight (N, d, d), bias, ln_weight and ln_bias (N, d) -> (G, N, L, d), or (G, L, d) with ``instances``
    (G, L).
    """
    z = [
        F.layer_norm(F.gelu(F.linear(h, weight[i], bias[i])), h.shape[-1:], ln_weight[i], ln_bias[i], eps)
        for i in range(weight.shape[0])
    ]
    return _select(torch.stack(z, dim=1), instances)


def unbind_demux(
    h: Tensor,
    transforms: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float = 1e-12,
    instances: Tensor | None = None,
) -> Tensor:
    """``z_ij = LN(GELU(W (v_i * h_j) + b))``, or ``LN(v_i * h_j)`` without a weight.

    h (G, L, d); transforms (N, d), the multiplexer's vectors, or (N, d, d), its orthogonal matrices, whose inverse
    O_i^T takes the place of the product -> (G, N, L, d), or (G, L, d) with ``instances`` (G, L).
    """
    if transforms.dim() == 2:
        unbound = transforms[None, :, None, :] * h[:, None]
    else:
        unbound = (transforms.mT[None, :, None] @ h[:, None, :, :, None]).squeeze(-1)
    if weight is not None:
        unbound = F.gelu(F.linear(unbound, weight, bias))
    z = F.layer_norm(unbound, h.shape[-1:], ln_weight, ln_bias, eps)
    return _select(z, instances)


def index_prefix(embed, index_tokens: Tensor, pad_token: Tensor, cls_token: Tensor) -> Tensor:
    """The N prefixes, embedded one by one (DataMUX 3.2): instance i holds its own token at position i and pads
    elsewhere.

    embed maps word embeddings (N, N + 1, d) to the encoder's embeddings; index_tokens (N, d), pad_token (d),
    cls_token (d) are word embeddings -> (N, N + 1, d).
    """
    num_instances = index_tokens.shape[0]
    rows = []
    for i in range(num_instances):
        row = [index_tokens[i] if k == i else pad_token for k in range(num_instances)]
        rows.append(torch.stack([*row, cls_token]))
    return embed(torch.stack(rows))


def retrieval_loss(
    z: Tensor, instances: Tensor, input_ids: Tensor, weight: Tensor, bias: Tensor | None, ignore_index: int = -100
) -> Tensor:
    """Retrieval warm-up (DataMUX 3.3): predict, at each position, the token of one instance drawn there.

    z (G, N, L, d), instances (G, L), input_ids (G, N, L), decoder weight (V, d) and bias (V) -> scalar, the mean over
    positions whose target is not ``ignore_index``.
    """
    selected = _select(z, instances)
    targets = input_ids.gather(1, instances[:, None]).squeeze(1)
    logits = F.linear(selected, weight, bias)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index)


def join_positions(x: Tensor, keep: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """N neighbouring positions of a row joined into one, the first position apart.

    x (B, L, d), keep (B, L), 1 where a position is no padding -> the means (B, 1 + ceil((L - 1) / N), d) of what is
    none, and where there is any.
    """
    positions = list(range(x.shape[1]))
    windows = [[0], *(positions[start : start + num_instances] for start in range(1, x.shape[1], num_instances))]
    means, any_kept = [], []
    for window in windows:
        weights = keep[:, window].to(x.dtype)
        count = weights.sum(1)
        total = (x[:, window] * weights[..., None]).sum(1)
        # A row's first position counts even where it is masked.
        means.append(x[:, 0] if window == [0] else total / count.clamp(min=1)[:, None])
        any_kept.append(count > 0)
    return torch.stack(means, 1), torch.stack(any_kept, 1)


def separate_positions(y: Tensor, num_instances: int, length: int) -> Tensor:
    """Each window's state at all of its positions: y (B, 1 + ceil((length - 1) / N), d) -> (B, length, d)."""
    return torch.stack([y[:, 0 if l == 0 else 1 + (l - 1) // num_instances] for l in range(length)], 1)


def join_rows(x: Tensor, keep: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """``y = 1/sqrt(N) sum_i v_i * x_i`` over what is no padding.

    x (G * N, L, d), keep (G * N, L), signs (N, d), of +1 and -1 -> (G, L, d), and where any of the N rows of a group is
    no padding.
    """
    n = len(signs)
    x, keep = x.reshape(-1, n, *x.shape[1:]), keep.reshape(-1, n, keep.shape[1])
    x = x * keep[..., None].to(x.dtype)
    return hadamard_mux(x, signs, scale=n**-0.5), keep.any(1)


def separate_rows(y: Tensor, signs: Tensor, length: int) -> Tensor:
    """``v_i * y`` for each of N rows: y (G, L, d), signs (N, d) -> (G * N, length, d).

    As v_i * v_i = 1, row i's share of y is its own again, beside what the others have become.
    """
    return torch.cat([(signs[:, None] * state[None])[:, :length] for state in y])
