"""To how many positions rows are padded: for some models that is a part of what they compute."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

logger = logging.get_logger(__name__)


def least_width(model: PreTrainedModel) -> int:
    """Positions that every batch of rows is padded to, or more where a row is longer; 0 for a model whose answers do
    not depend on it.

    Example:
        >>> import fastmux
        >>> from fastmux.models.padding import least_width
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> conventions = {"attend_padding": True, "padded_length": 128}
        >>> least_width(fastmux.TMux(tiny, 4)), least_width(fastmux.TMux(tiny, 4, conventions=conventions))
        (0, 128)
    """
    conventions = getattr(model.config, "conventions", None)
    padded = None if conventions is None else conventions.padded_length
    return 0 if padded is None else min(padded, model.base_model.max_length)


def attends_padding(model: PreTrainedModel) -> bool:
    """Whether padding that is cut off a row changes the model's answer."""
    conventions = getattr(model.config, "conventions", None)
    return conventions is not None and conventions.attend_padding


def pad_rows(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows (B, L) as the model has them, (B, max(L, `least_width`)): ``input_ids`` and what goes with them."""
    rows, width = inputs["input_ids"].shape
    missing = least_width(model) - width
    if missing <= 0:
        return inputs
    inputs = {"attention_mask": inputs["input_ids"].new_ones(rows, width)} | inputs
    fill = {"input_ids": model.config.pad_token_id or 0}
    return {name: torch.nn.functional.pad(t, (0, missing), value=fill.get(name, 0)) for name, t in inputs.items()}


def warn_of_width(model: PreTrainedModel, width: int) -> None:
    """Says once that rows are narrower than those that the model was trained on and scored with."""
    if torch.compiler.is_compiling():
        return  # of a size that is not known yet
    expected = least_width(model)
    if width < expected:
        logger.warning_once(
            f"This model attends to padding and was scored on rows padded to {expected} positions; these have {width}, "
            "which gives other answers. fastmux.predict, fastmux.Labeller and model.predict pad them; elsewhere, "
            f'tokenize with padding="max_length", max_length={expected}.'
        )
