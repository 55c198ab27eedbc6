"""The last layer of an encoder at the positions that a head reads: the others are keys and values, and no more.

Exact, as far as the order of sums allows, for encoders whose layers are BERT's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from fastmux.joined_configuration import BERT_LIKE
from fastmux.modules.is_plain import is_plain


def states_at_first_positions(
    encoder: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor | None, count: int
) -> Tensor | None:
    """An encoder's last hidden states at its first positions, (B, count, d): ``last_hidden_state[:, :count]``.

    Args:
        encoder: any encoder, in eval mode.
        inputs_embeds: (B, L, d), attention_mask: (B, L), as it takes them.
        count: positions wanted.

    Returns:
        None where the encoder must run as a whole: of another family, or with hooks or modules of somebody's own.
    """
    if not _runs_by_parts(encoder):
        return None
    states = encoder.embeddings(inputs_embeds=inputs_embeds)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA
        states = encoder.embeddings_project(states)
    mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=states, attention_mask=attention_mask)
    layers = encoder.encoder.layer
    for layer in layers[:-1]:
        states = layer(states, mask)
    keep = None if attention_mask is None else attention_mask != 0
    return first_positions(layers[-1], states, keep, count)


def _runs_by_parts(encoder: PreTrainedModel) -> bool:
    config = encoder.config
    if config.model_type not in BERT_LIKE or encoder.training or getattr(config, "is_decoder", False):
        return False
    if config.output_hidden_states or config.output_attentions:
        return False
    kind = type(encoder)
    if not kind.__module__.startswith("transformers.models.") or not is_plain(encoder, kind):
        return False
    return len(encoder.encoder.layer) > 0 and is_plain(encoder.encoder, type(encoder.encoder))


def first_positions(layer: nn.Module, x: Tensor, keep: Tensor | None = None, count: int = 1) -> Tensor:
    """A BERT-like layer at the first positions alone: x (B, L, d), keep (B, L) True at real positions -> (B, count, d).

    Exactly ``layer(x)[:, :count]``: of a layer's work only keys and values concern the other positions. A layer that
    somebody has hooked, quantised or put an adapter into runs in its own way, at every position.
    """
    if not all(is_plain(module, type(module)) for module in layer.modules()) or any(
        type(getattr(layer.attention.self, name)) is not nn.Linear for name in ("query", "key", "value")
    ):
        mask = None if keep is None else keep[:, None, None]
        implementation = layer.attention.self.config._attn_implementation
        mask = mask if mask is None or implementation != "eager" else _additive(mask, x)
        return layer(x, mask)[:, :count]
    context = _context_of_first(layer, x, keep) if count == 1 else _context(layer, x, keep, count)
    states = layer.attention.output(context, x[:, :count])
    return layer.feed_forward_chunk(states)


def _context_of_first(layer: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor:
    """What the first position attends to, (B, 1, d).

    With one query even keys and values can be folded away. With q the query of a head, ``q . (W_k x_l + b_k)`` is
    ``(W_k^T q) . x_l`` and a term that is the same for all l, which the softmax drops; ``sum_l p_l (W_v x_l + b_v)`` is
    ``W_v (sum_l p_l x_l) + b_v``. What remains of the work at L positions is 4 L d operations a head.
    """
    attention = layer.attention.self
    heads = attention.num_attention_heads
    query = attention.query(x[:, 0]).unflatten(-1, (heads, -1))  # (B, H, d / H)
    scale = query.shape[-1] ** -0.5
    key, value = (getattr(attention, name).weight.unflatten(0, (heads, -1)) for name in ("key", "value"))
    folded = torch.bmm(query.transpose(0, 1) * scale, key).transpose(0, 1)  # (B, H, d)
    scores = torch.bmm(folded, x.mT)  # (B, H, L)
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    weights = nn.functional.dropout(weights, attention.dropout.p, layer.training)
    # Dropout leaves the weights' sum, by which the bias is to be taken, other than 1.
    context = torch.bmm(torch.bmm(weights, x).transpose(0, 1), value.mT).transpose(0, 1)
    # Copied, as flatten would, which in an exported program asks first whether there is one row.
    context = context.clone(memory_format=torch.contiguous_format).flatten(1)
    if attention.value.bias is not None:
        bias = attention.value.bias.unflatten(0, (heads, -1))
        context = context + (weights.sum(-1, keepdim=True) * bias).flatten(1)
    return context[:, None]


def _context(layer: nn.Module, x: Tensor, keep: Tensor | None, count: int) -> Tensor:
    """What the first positions attend to, (B, count, d)."""
    attention = layer.attention.self

    def split(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    context = nn.functional.scaled_dot_product_attention(
        split(attention.query(x[:, :count].clone(memory_format=torch.contiguous_format))),
        split(attention.key(x)),
        split(attention.value(x)),
        attn_mask=None if keep is None else keep[:, None, None],
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    return context.transpose(1, 2).flatten(2)


def _additive(keep: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(keep, dtype=x.dtype).masked_fill(~keep, torch.finfo(x.dtype).min)
