"""Rows that are padded on the left: where a token is, the mask says.

A model that binds tokens of several rows by their position, joins neighbouring positions or reads the first one takes a
row to begin with its first token. `from_first_token` moves the tokens of rows that do not to the front before a forward
pass, padding behind them, and moves what the model says of them back.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils.import_utils import is_tracing

#: Arguments of a forward pass that go along with the tokens.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
#: Outputs that do, and how many dimensions they then have.
_OUTPUTS = {"logits": 3, "last_hidden_state": 3, "predictions": 2}


def padding_before(attention_mask: Tensor | None) -> Tensor | None:
    """How many positions of each row come before its first token, (B); None where none does in any row.

    A row of nothing but padding stays as it is. While a graph is traced or captured nothing is looked at: rows are
    taken to begin with their first token.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2 or attention_mask.numel() == 0:
        return None
    if is_tracing(attention_mask) or attention_mask.is_meta or bool((attention_mask[:, 0] != 0).all()):
        return None
    real = attention_mask != 0
    before = real.int().argmax(1)  # the first of the largest
    return before if bool(before.any()) else None


def moved(t: Tensor, by: Tensor, *, back: bool = False) -> Tensor:
    """t (B, L, ...), each row moved ``by`` (B) positions to the front, what is in front of them to its end; or back."""
    places = torch.arange(t.shape[1], device=t.device)
    source = (places + (-by if back else by)[:, None]) % t.shape[1]
    return t.gather(1, source.view(*source.shape, *[1] * (t.dim() - 2)).expand(t.shape))


def from_first_token(forward: Callable) -> Callable:
    """A ``forward`` that rows may reach with padding on the left.

    Of what is given, tensors of the mask's shape are moved, and ``labels`` where ``labels_of_tokens`` of the model says
    that they are those of tokens; of the output, states and logits of tokens are moved back. ``hidden_states`` and
    ``attentions`` stay as they ran.
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
            if isinstance(t, Tensor) and t.shape[:2] == shape:  # others are for `forward` to refuse
                given[name] = moved(t, before)
        output = forward(self, **given)
        for name, dimensions in _OUTPUTS.items():
            t = getattr(output, name, None)
            if isinstance(t, Tensor) and t.dim() == dimensions and t.shape[:2] == shape:
                output[name] = moved(t, before, back=True)
        return output

    return aligned
