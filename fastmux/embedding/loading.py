"""Load a model that embeds for the runtime that is asked for; only torch needs torch and transformers."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from fastmux.embedding.exported import ExportedVectorizer
from fastmux.labelling.loading import Form


def embedding_form(pooling: str | None = None, prompt_name: str | None = None, prompt: str | None = None) -> Form:
    """How models that embed are loaded, with a pooling and a prompt as in `fastmux.embedding.settings`."""
    asked = {"pooling": pooling, "prompt_name": prompt_name, "prompt": prompt}
    # A model may leave its prompt out of the pooling, which is then a part of what is exported.
    key = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
    return Form(partial(_in_torch, asked), partial(_exported, asked), _export, f"-vectors-{key}")


def _in_torch(asked: dict[str, Any], model: Any, tokenizer: Any, what: str) -> Any:
    from fastmux.embedding.vectorizer import Vectorizer

    return Vectorizer.of(model, tokenizer, what, **asked)


def _exported(asked: dict[str, Any], folder: Any, tokenizer: Any, what: str) -> Any:
    return ExportedVectorizer.of(folder, tokenizer, what).asked(**asked)


def _export(vectorizer: Any, target: Any, runtime: str, precision: str) -> None:
    from fastmux.exporting.export import write

    write(vectorizer, target, runtime, precision)
