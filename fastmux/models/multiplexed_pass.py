"""`MultiplexedPass`: what `TMux.encode` returns, and demultiplexers and heads read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput


@dataclass
class MultiplexedPass:
    """The result of one pass of the encoder, before demultiplexing."""

    content: Tensor  # (G, L, d), hidden states after the prefix
    prefix_states: Tensor | None  # (G, N, d), hidden states at the index tokens
    transforms: Tensor | None  # the multiplexer's transforms, if the demultiplexer applies them
    summary: Tensor  # (G, 1, d), the position that sequence tasks read
    rows: int  # the number of rows of the batch, before the last group was filled
    input_ids: Tensor | None  # (G, N, L)
    attention_mask: Tensor | None  # (G, N, L)
    encoder_outputs: BaseModelOutput
