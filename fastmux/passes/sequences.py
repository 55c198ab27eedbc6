"""Attention within sequences that lie end to end in one, and the layers of BERT-like encoders with it.

On a GPU, in half precision, this is Flash attention to sequences of several lengths, which PyTorch brings along.
Elsewhere a mask keeps sequences apart: it is quadratic in their total length, and there to hold the numbers to padded
ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from fastmux.joins import BERT_LIKE
from fastmux.modules.is_plain import is_plain

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sequences:
    """Sequences that lie end to end.

    Attributes:
        ends: Where each begins, and where the last one ends, (G + 1), int32.
        longest: The positions of the longest, known on the host.
    """

    ends: Tensor
    longest: int


@dataclass(frozen=True)
class Asked:
    """Some positions of sequences, as many of each.

    Attributes:
        index: The positions, (K), in order, int32.
        sequences: What they are in each sequence, end to end.
    """

    index: Tensor
    sequences: Sequences


def attend(query: Tensor, key: Tensor, value: Tensor, asked: Sequences, sequences: Sequences) -> Tensor:
    """Attention of each position to those of its own sequence: query (K, H, d / H), key, value (T, H, d / H), where
    ``asked`` lays out the queries and ``sequences`` the keys -> (K, H, d / H).

    Example:
        >>> import torch
        >>> from fastmux.passes.sequences import Sequences, attend
        >>> two, x = Sequences(torch.tensor([0, 1, 3]), 2), torch.tensor([3.0, 5.0, 5.0])[:, None, None]
        >>> attend(x, x, x, two, two).flatten()
        tensor([3., 5., 5.])
    """
    if not needs_mask(query):
        lengths = (asked.ends, sequences.ends, asked.longest, sequences.longest)
        return varlen_attn(query, key, value, *lengths)  # type: ignore[return-value]  # a pair if more is asked for
    mask = _numbers(asked.ends, len(query))[:, None] == _numbers(sequences.ends, len(key))
    query, key, value = (t.transpose(0, 1)[None] for t in (query, key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0].transpose(0, 1)


def needs_mask(query: Tensor) -> bool:
    """Whether no kernel attends to sequences of several lengths where it lies."""
    return query.device.type == "cpu"


def _numbers(ends: Tensor, length: int) -> Tensor:
    """The number of the sequence of each position, (length)."""
    return torch.bucketize(torch.arange(length, device=ends.device), ends[1:], right=True)


def attention(layer: Any, x: Tensor, sequences: Sequences, asked: Asked | None = None) -> Tensor:
    """The attention block of a BERT-like layer, with what is added and normalised: x (T, d) -> (T, d), or (K, d) of the
    positions that are asked for."""
    own = layer.attention.self
    wanted = x if asked is None else x.index_select(0, asked.index)
    query, key, value = (
        getattr(own, name)(states).unflatten(-1, (own.num_attention_heads, -1))
        for name, states in (("query", wanted), ("key", x), ("value", x))
    )
    context = attend(query, key, value, sequences if asked is None else asked.sequences, sequences)
    return layer.attention.output(context.flatten(1), wanted)


def run_layers(layers: Iterable[Any], x: Tensor, sequences: Sequences) -> Tensor:
    """BERT-like layers in eval mode on sequences end to end, (T, d) -> (T, d)."""
    for layer in layers:
        x = layer.feed_forward_chunk(attention(layer, x, sequences))
    return x


def run_at(layer: Any, x: Tensor, sequences: Sequences, asked: Asked) -> Tensor:
    """A BERT-like layer at some positions only; the others give keys and values: (T, d) -> (K, d)."""
    return layer.feed_forward_chunk(attention(layer, x, sequences, asked))


def can_pack_layers(config, layers: Iterable[Any]) -> bool:
    """Whether layers compute here what they compute when they are called: BERT's, and nobody chose another attention,
    added hooks or replaced a module whose ``forward`` is not called."""
    if config.model_type not in BERT_LIKE or config._attn_implementation != "sdpa":
        return False
    if getattr(config, "is_decoder", False) or config.output_hidden_states or config.output_attentions:
        return False
    called = [module for layer in layers for module in (layer, layer.attention, layer.attention.self)]
    return all(type(m).__module__.startswith("transformers.models.") and is_plain(m, type(m)) for m in called)


def has_kernel(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a device attends to sequences of several lengths without a mask, with heads of this width."""
    if device.type != "cuda" or dtype not in _HALF or width % 8 or width > 256:
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device)[0] >= 8
