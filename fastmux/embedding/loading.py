"""Load a model that embeds for the runtime that is asked for; only torch needs torch and transformers."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from fastmux.embedding.exported import ExportedVectorizer
from fastmux.labelling.loading import Form
from fastmux.passes.runtimes.record import RuntimeRecord, is_exported


def embedding_form(pooling: str | None = None, prompt_name: str | None = None, prompt: str | None = None) -> Form:
    """How models that embed are loaded, with a pooling and a prompt as in `fastmux.embedding.settings`."""
    asked = {"pooling": pooling, "prompt_name": prompt_name, "prompt": prompt}
    # A model may leave its prompt out of the pooling, which is then a part of what is exported.
    key = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
    return Form(partial(_in_torch, asked), partial(_exported, asked), _export, f"-vectors-{key}")


def cut_at(vectorizer: Any, asked: int | None) -> int:
    """The tokens at which texts are cut: as asked, or where the model says, in whatever form it is loaded.

    Raises:
        ValueError: It has no room for so many.
    """
    found, own = vectorizer.max_length(asked), vectorizer.config.max_seq_length
    return found if asked is not None or own is None else min(found, own)


def embeds(model: Any) -> bool:
    """Whether a model, or its name or folder, is one that embeds: of sentence-transformers, but for its cross-encoders,
    or exported from one."""
    if not isinstance(model, (str, os.PathLike)):
        return hasattr(model, "embedding_config")
    if is_exported(model):
        with contextlib.suppress(ValueError):  # loading it will say so
            return RuntimeRecord.read(Path(model)).embedding is not None
        return False
    from fastmux.embedding.folder import is_cross_encoder, says_pooling

    return says_pooling(model) and not is_cross_encoder(model)


def _in_torch(asked: dict[str, Any], model: Any, tokenizer: Any, what: str) -> Any:
    from fastmux.embedding.vectorizer import Vectorizer

    return Vectorizer.of(model, tokenizer, what, **asked)


def _exported(asked: dict[str, Any], folder: Any, tokenizer: Any, what: str) -> Any:
    return ExportedVectorizer.of(folder, tokenizer, what).asked(**asked)


def _export(vectorizer: Any, target: Any, runtime: str, precision: str) -> None:
    from fastmux.exporting.export import write

    write(vectorizer, target, runtime, precision)
