"""T-MUX models for Hugging Face: `TMux` makes an encoder multiplexed, the ``TMuxFor...`` classes put task heads on it.

Importing this package registers the models with the Auto classes of transformers.
"""

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from fastmux.configuration import TMuxConfig
from fastmux.joined_configuration import JoinedConfig
from fastmux.models.encoders import ModuleEncoder
from fastmux.models.heads import (
    TMuxForMaskedLM,
    TMuxForRetrieval,
    TMuxForSequenceClassification,
    TMuxForTokenClassification,
)
from fastmux.models.joined import JoinedForSequenceClassification, JoinedForTokenClassification, JoinedModel
from fastmux.models.tmux import TMux

__all__ = [
    "JoinedForSequenceClassification",
    "JoinedForTokenClassification",
    "JoinedModel",
    "ModuleEncoder",
    "TMux",
    "TMuxForMaskedLM",
    "TMuxForRetrieval",
    "TMuxForSequenceClassification",
    "TMuxForTokenClassification",
]

AutoModel.register(TMuxConfig, TMux, exist_ok=True)
AutoModelForMaskedLM.register(TMuxConfig, TMuxForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(TMuxConfig, TMuxForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(TMuxConfig, TMuxForTokenClassification, exist_ok=True)
AutoModel.register(JoinedConfig, JoinedModel, exist_ok=True)
AutoModelForSequenceClassification.register(JoinedConfig, JoinedForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(JoinedConfig, JoinedForTokenClassification, exist_ok=True)
