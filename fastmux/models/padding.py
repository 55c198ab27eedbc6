"""A warning for rows that are padded to fewer positions than those that the model was trained on."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from fastmux.passes.runtimes.torch import least_width

logger = logging.get_logger(__name__)


def warn_of_width(model: PreTrainedModel, width: int) -> None:
    """Warns, once, if rows are shorter than those that the model was trained and evaluated on."""
    if torch.compiler.is_compiling():
        return  # a traced size may not be known yet
    expected = least_width(model)
    if width < expected:
        logger.warning_once(
            f"This model attends to padding and was scored on rows padded to {expected} positions; these have {width}, "
            "which gives other answers. fastmux.predict, fastmux.Labeller and model.predict pad them; elsewhere, "
            f'tokenize with padding="max_length", max_length={expected}.'
        )
