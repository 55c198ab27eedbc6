"""The last layer of an encoder, computed only at the positions that a head reads. The others give keys and values.

The result is exact, up to the order of sums, for encoders whose layers are BERT's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastmux.joins import BERT_LIKE
from fastmux.models.masks import bidirectional_mask
from fastmux.modules.is_plain import is_plain
from fastmux.passes.masks import inside


def states_at_first_positions(
    encoder: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor | None, count: int
) -> Tensor | None:
    """Computes ``last_hidden_state[:, :count]``, the encoder's last hidden states (B, count, d) at its first positions.

    Args:
        encoder: Any encoder, in eval mode.
        inputs_embeds: Its embeddings, (B, L, d).
        attention_mask: Its attention mask, (B, L).
        count: The number of positions to compute.

    Returns:
        The states; None where the encoder must run as a whole, because it is of another family or a user added hooks or
        replaced modules.
    """
    if not _runs_by_parts(encoder):
        return None
    states = encoder.embeddings(inputs_embeds=inputs_embeds)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA
        states = encoder.embeddings_project(states)
    mask = bidirectional_mask(encoder.config, states, attention_mask)
    layers = encoder.encoder.layer
    for layer in layers[:-1]:
        states = layer(states, mask)
    keep = None if attention_mask is None else inside(attention_mask)
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
    """Runs a BERT-like layer at its first positions only: x (B, L, d), keep (B, L) -> (B, count, d). keep is False at
    padding.

    The result is ``layer(x)[:, :count]``: of the other positions only keys and values are needed. A layer with hooks,
    quantisation or an adapter is called as it is, at every position.
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
    """The attention output of the first position, (B, 1, d).

    One query needs no keys and values. With q the query of a head, ``q . (W_k x_l + b_k)`` is ``(W_k^T q) . x_l`` plus
    a term that is the same for all l and that the softmax cancels. ``sum_l p_l (W_v x_l + b_v)`` is ``W_v
    (sum_l p_l x_l) + b_v``. This leaves 4 L d operations per head.
    """
    attention = layer.attention.self
    heads = attention.num_attention_heads
    query = attention.query(x[:, 0]).unflatten(-1, (heads, -1))  # (B, H, d / H)
    scale = query.shape[-1] ** -0.5
    key, value = (getattr(attention, name).weight.unflatten(0, (heads, -1)) for name in ("key", "value"))
    folded = torch.bmm(query.transpose(0, 1) * scale, key).transpose(0, 1)  # (B, H, d)
    scores = torch.bmm(folded, x.mT)  # (B, H, L)
    if keep is not None:
        # As a number it would be put on the device by a launch of its own.
        least = torch.tensor(torch.finfo(scores.dtype).min, dtype=scores.dtype, device="cpu")
        scores = torch.where(keep[:, None], scores, least)
    weights = scores.softmax(-1)
    drops = layer.training and attention.dropout.p > 0
    if drops:
        weights = nn.functional.dropout(weights, attention.dropout.p)
    context = torch.bmm(torch.bmm(weights, x).transpose(0, 1), value.mT).transpose(0, 1)
    # Copied, as flatten would, which in an exported program asks first whether there is one row.
    context = context.clone(memory_format=torch.contiguous_format).flatten(1)
    if attention.value.bias is not None:
        bias = attention.value.bias
        if drops:  # the weights do not sum to 1
            bias = (weights.sum(-1, keepdim=True) * bias.unflatten(0, (heads, -1))).flatten(1)
        context = context + bias
    return context[:, None]


def _context(layer: nn.Module, x: Tensor, keep: Tensor | None, count: int) -> Tensor:
    """The attention output of the first positions, (B, count, d)."""
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
