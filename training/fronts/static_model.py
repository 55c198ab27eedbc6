"""A static model: one vector a token, averaged, as model2vec distils it from a model that embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastmux.distribution import of_extra


def static_model(folder: str) -> Callable[[Sequence[str]], np.ndarray]:
    """What makes vectors (texts, D) of texts; tokenising is a part of it.

    Raises:
        MissingExtraError: model2vec is not installed.
    """
    with of_extra("peers", "--static"):
        from model2vec import StaticModel
    model = StaticModel.from_pretrained(folder)
    # A max_length of its own would cut characters before it cuts tokens.
    return lambda texts: model.encode(list(texts), max_length=None, use_multiprocessing=False).astype(np.float32)
