"""A static model: one vector a token, averaged, as model2vec distils it from a model that embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def static_model(folder: str) -> Callable[[Sequence[str]], np.ndarray]:
    """What makes vectors (texts, D) of texts; tokenising is a part of it.

    Raises:
        ValueError: model2vec is not installed.
    """
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise ValueError(
            f"--static is {folder!r}, but model2vec is not installed, which the extra `peers` brings"
        ) from error
    model = StaticModel.from_pretrained(folder)
    # A max_length of its own would cut characters before it cuts tokens.
    return lambda texts: model.encode(list(texts), max_length=None, use_multiprocessing=False).astype(np.float32)
