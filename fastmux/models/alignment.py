"""Rows that are padded on the left, as the attention mask tells.

A model that binds tokens of several rows by their position, joins neighbouring positions or reads the first position
assumes that a row begins with its first token. `from_first_token` moves the tokens of other rows to the front before a
forward pass, and moves the outputs back.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils.import_utils import is_tracing

from fastmux.passes.masks import are_right_padded

#: Arguments of a forward pass that are moved with the tokens.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
#: Outputs that are moved back -> their number of dimensions when they are outputs of tokens.
_OUTPUTS = {"logits": 3, "last_hidden_state": 3, "predictions": 2}


def padding_before(attention_mask: Tensor | None) -> Tensor | None:
    """The number of positions before each row's first token, (B). None if every row begins with its first token.

    A row of padding alone counts as one that does. While a graph is traced or captured, or where it is known
    (`fastmux.passes.masks.right_padded`), the values are not read, and the result is None.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2 or attention_mask.numel() == 0:
        return None
    # In this order: what compiles a function knows no context variables.
    if is_tracing(attention_mask) or attention_mask.is_meta or are_right_padded():
        return None
    if bool((attention_mask[:, 0] != 0).all()):
        return None
    real = attention_mask != 0
    before = real.int().argmax(1)  # argmax returns the first of equal values
    return before if bool(before.any()) else None


def moved(t: Tensor, by: Tensor, *, back: bool = False) -> Tensor:
    """Rotates each row of t (B, L, ...) by ``by`` (B) positions towards its front; with ``back``, towards its end."""
    places = torch.arange(t.shape[1], device=t.device)
    source = (places + (-by if back else by)[:, None]) % t.shape[1]
    return t.gather(1, source.view(*source.shape, *[1] * (t.dim() - 2)).expand(t.shape))


def from_first_token(forward: Callable) -> Callable:
    """Decorates a ``forward`` so that rows may be padded on the left.

    Arguments that have the mask's shape are moved; ``labels`` are if the model's ``labels_of_tokens`` is true. States
    and logits of tokens are moved back. ``hidden_states`` and ``attentions`` are returned as the encoder computed them.
    """
    names = list(inspect.signature(forward).parameters)[1:]

    @functools.wraps(forward)
    def aligned(self, *args, **kwargs):
        given = dict(zip(names, args, strict=False))
        mask = given.get("attention_mask", kwargs.get("attention_mask"))
        before = padding_before(mask)
        if before is None:
            return forward(self, *args, **kwargs)
        given |= kwargs
        shape = mask.shape
        positions = given.get("position_ids")
        if positions is not None and tuple(positions.shape) == (1, shape[1]):
            given["position_ids"] = positions.expand(shape)
        for name in (*_INPUTS, "labels") if self.labels_of_tokens else _INPUTS:
            t = given.get(name)
            if isinstance(t, Tensor) and t.shape[:2] == shape:  # `forward` refuses other shapes
                given[name] = moved(t, before)
        output = forward(self, **given)
        for name, dimensions in _OUTPUTS.items():
            t = getattr(output, name, None)
            if isinstance(t, Tensor) and t.dim() == dimensions and t.shape[:2] == shape:
                output[name] = moved(t, before, back=True)
        return output

    return aligned
