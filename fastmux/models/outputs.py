"""The outputs of T-MUX models: Hugging Face's output classes with the parts of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import ModelOutput


@dataclass
class TMuxRetrievalOutput(ModelOutput):
    """The loss, a scalar, and in eval mode predictions (B, L), the token recovered at each position."""

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
