"""Load a model that embeds for the runtime that is asked for; only torch needs torch and transformers."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastmux.labelling.loading import Form


def embedding_form(pooling: str | None = None, prompt_name: str | None = None, prompt: str | None = None) -> Form:
    """How models that embed are loaded, with a pooling and a prompt as in `fastmux.embedding.settings`."""
    asked = {"pooling": pooling, "prompt_name": prompt_name, "prompt": prompt}
    return Form(partial(_in_torch, asked), _exported, _export)


def _in_torch(asked: dict[str, str | None], model: Any, tokenizer: Any, what: str) -> Any:
    from fastmux.embedding.vectorizer import Vectorizer

    return Vectorizer.of(model, tokenizer, what, **asked)


def _exported(folder: Any, tokenizer: Any, what: str) -> Any:
    raise ValueError(f"{what} {str(folder)!r} is exported, which is not embedded with yet")


def _export(vectorizer: Any, target: Any, runtime: str, precision: str) -> None:
    raise ValueError(f"runtime is {runtime!r}, expected 'torch'")
