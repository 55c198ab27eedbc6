"""Attention masks in the form that an encoder's attention takes."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from fastmux.passes.masks import unasked


def bidirectional_mask(config: PreTrainedConfig, states: Tensor, mask: Tensor | None) -> Tensor | None:
    """A mask (B, L) in the form of the encoder's attention implementation, for states (B, L, d)."""
    return create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=unasked(mask, config))
