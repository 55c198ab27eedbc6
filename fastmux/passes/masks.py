"""Attention masks whose content nobody has to look at: on a GPU, every look waits until all work before it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fastmux.joins import BERT_LIKE

_right_padded: ContextVar[bool] = ContextVar("right_padded", default=False)


@contextlib.contextmanager
def right_padded() -> Iterator[None]:
    """Says that all rows within the block begin with their first token."""
    before = _right_padded.set(True)
    try:
        yield
    finally:
        _right_padded.reset(before)


def are_right_padded() -> bool:
    """Whether it is known that rows begin with their first token."""
    return _right_padded.get()


def looks_are_free(mask: Tensor) -> bool:
    """Whether its values lie where they are asked for."""
    return mask.device.type == "cpu"


def unasked_by(model: Any, mask: Tensor | None) -> Tensor | None:
    """A mask (B, L) for a model: `unasked` for one of transformers, as it is for one of ours, which sees to it."""
    return unasked(mask, model.config) if type(model).__module__.startswith("transformers.") else mask


def unasked(mask: Tensor | None, config: Any) -> Tensor | None:
    """A mask (B, L) for an encoder of transformers, in a form that it takes as it is.

    transformers asks a mask (B, L) whether it masks anything, to leave it out. A mask (B, 1, L, L) it hands to the
    attention, if that is PyTorch's and attends to the same positions in every layer. On a CPU asking costs little, and
    leaving the mask out saves more.

    Args:
        mask: The mask, 0 at padding; None if nothing is padded.
        config: The encoder's config.
    """
    if mask is None or mask.dim() != 2 or not goes_unasked(mask, config):
        return mask
    return inside(mask)[:, None, None].expand(-1, 1, mask.shape[1], -1)


def goes_unasked(mask: Tensor, config: Any) -> bool:
    """Whether an encoder of that config takes a mask that lies where this one does in a form that it does not look
    at."""
    return not looks_are_free(mask) and config.model_type in BERT_LIKE and config._attn_implementation == "sdpa"


def inside(mask: Tensor) -> Tensor:
    """A mask as booleans, False at padding; the mask itself if it is of booleans."""
    return mask if mask.dtype == torch.bool else mask != 0
