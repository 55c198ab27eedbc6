"""What T-MUX models return: Hugging Face's output classes, and the parts of a loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import ModelOutput


@dataclass
class TMuxRetrievalOutput(ModelOutput):
    """loss: scalar. predictions: (B, L), the token recovered at each position, in eval mode."""

    loss: Tensor | None = None
    predictions: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TMuxSequenceClassifierOutput(SequenceClassifierOutput):
    """`SequenceClassifierOutput` with the two parts of the loss."""

    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None


@dataclass
class TMuxTokenClassifierOutput(TokenClassifierOutput):
    """`TokenClassifierOutput` with the two parts of the loss."""

    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None


@dataclass
class TMuxMaskedLMOutput(MaskedLMOutput):
    """`MaskedLMOutput` with the two parts of the loss."""

    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
