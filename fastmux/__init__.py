"""fastmux: one transformer pass serves N inputs.

`TMux` makes a Hugging Face encoder multiplexed, the ``TMuxFor...`` classes put task heads on it, `functional` holds
the ops and `reference` specifies them.
"""

from fastmux import functional, reference
from fastmux.backbones import ModuleEncoder
from fastmux.backends import backend
from fastmux.configuration import TMuxConfig
from fastmux.heads import TMuxForMaskedLM, TMuxForRetrieval, TMuxForSequenceClassification, TMuxForTokenClassification
from fastmux.modeling import TMux

__version__ = "0.1.0"

__all__ = [
    "ModuleEncoder",
    "TMux",
    "TMuxConfig",
    "TMuxForMaskedLM",
    "TMuxForRetrieval",
    "TMuxForSequenceClassification",
    "TMuxForTokenClassification",
    "backend",
    "functional",
    "reference",
]
