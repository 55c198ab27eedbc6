"""fastmux: one transformer pass serves N inputs.

`TMux` makes a Hugging Face encoder multiplexed, the ``TMuxFor...`` classes put task heads on it, `functional` holds
the ops and `reference` specifies them.
"""

from __future__ import annotations

import importlib

from fastmux import auto

__version__ = "0.1.0"

#: Public name -> module that has it; loaded when it is asked for, so that ``import fastmux`` costs nothing.
_MODULES = {
    "Calibration": "fastmux.labelling.threshold",
    "Conversion": "fastmux.converting.convert",
    "ConversionSettings": "fastmux.distillation.settings",
    "DEMULTIPLEXERS": "fastmux.modules",
    "JoinedConfig": "fastmux.joined_configuration",
    "JoinedForSequenceClassification": "fastmux.models",
    "JoinedForTokenClassification": "fastmux.models",
    "JoinedModel": "fastmux.models",
    "MULTIPLEXERS": "fastmux.modules",
    "ModuleEncoder": "fastmux.models",
    "Multiplexed": "fastmux.modules",
    "TMux": "fastmux.models",
    "TMuxConfig": "fastmux.configuration",
    "TMuxForMaskedLM": "fastmux.models",
    "TMuxForRetrieval": "fastmux.models",
    "TMuxForSequenceClassification": "fastmux.models",
    "TMuxForTokenClassification": "fastmux.models",
    "Embedder": "fastmux.embedding.embedder",
    "Embeddings": "fastmux.embedding.embed",
    "EmbeddingSettings": "fastmux.embedding.settings",
    "Labeller": "fastmux.labelling.labeller",
    "LabellingSettings": "fastmux.labelling.settings",
    "Found": "fastmux.searching.found",
    "SearchSettings": "fastmux.searching.settings",
    "Predictions": "fastmux.labelling.predict",
    "backend": "fastmux.backends",
    "calibrate": "fastmux.labelling.calibration",
    "convert": "fastmux.converting.convert",
    "embed": "fastmux.embedding.embed",
    "export": "fastmux.exporting.export",
    "predict": "fastmux.labelling.predict",
    "read_texts": "fastmux.distillation.texts",
    "search": "fastmux.searching.search",
}
_SUBMODULES = ("functional", "modules", "reference")

__all__ = sorted([*_MODULES, *_SUBMODULES])


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"fastmux.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'fastmux' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


auto.register()
