"""Checks of batches and labels before any work."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import logging

from fastmux.configuration import TMuxConfig
from fastmux.functional._checks import check_range
from fastmux.modules.embeddings import EmbeddingAdapter, rows_of
from fastmux.modules.retrieval import IGNORE_INDEX

logger = logging.get_logger(__name__)


def check_inputs(
    config: TMuxConfig,
    embeddings: EmbeddingAdapter,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> None:
    """Checks the arguments of `TMux.forward`.

    Raises:
        ValueError: The model does not take a tensor of this shape, dtype, device or range.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    given |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
    device = embeddings.device
    for name, t in given.items():
        if t is not None and device is not None and t.device != device:
            raise ValueError(f"{name} is on {t.device}, expected {device}, where the model is")
    if input_ids is not None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, expected (rows, length)")
        if input_ids.is_floating_point():
            raise ValueError(f"input_ids has dtype {input_ids.dtype}, expected an integer dtype")
        check_range("input_ids", input_ids, rows_of(embeddings.word))
        shape = tuple(input_ids.shape)
    else:
        width = config.embedding_size
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != width:
            raise ValueError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, expected (rows, length, {width})")
        shape = tuple(inputs_embeds.shape[:2])
    for name, t in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}, expected {shape}")
    for name, given, table in (
        ("token_type_ids", token_type_ids, embeddings.token_type),
        ("position_ids", position_ids, embeddings.position),
    ):
        if given is not None and table is None:
            raise ValueError(
                f"{name} was given, but a {config.backbone_config.model_type} encoder has no embeddings for them; "
                "leave them out"
            )
    if token_type_ids is not None:
        check_range("token_type_ids", token_type_ids, rows_of(embeddings.token_type))
    if position_ids is not None and tuple(position_ids.shape) not in (shape, (1, shape[1])):
        raise ValueError(f"position_ids has shape {tuple(position_ids.shape)}, expected {shape}")
    if shape[1] > embeddings.max_length:
        raise ValueError(
            f"input_ids has sequences of {shape[1]} positions, expected at most {embeddings.max_length}, as many as "
            "the encoder has"
        )
    if shape[1] == 0:
        raise ValueError("input_ids has sequences of 0 positions, expected at least 1")
    if position_ids is not None:
        check_range("position_ids", position_ids, embeddings.end_position)
    prefix = config.prefix_length
    behind = shape[1] + prefix - embeddings.max_length
    if behind > 0 and embeddings.position is not None and not torch.compiler.is_compiling():
        # A pipeline truncates to what the encoder takes, and a model cannot tell its tokenizer otherwise.
        logger.warning_once(
            f"The index prefix takes {prefix} of the encoder's {embeddings.max_length} positions: of rows of "
            f"{shape[1]}, the last {behind} tokens share the last position embedding. "
            "model.fit_tokenizer(tokenizer) makes truncation=True cut such rows."
        )


#: Tokens that may end a row and that some tokenizers also pad with.
_ENDS = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def check_unmasked(config: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Raises ValueError if there is no mask and rows begin or end with padding.

    In some vocabularies the padding token also ends a row: GPT-2's padding is often its end of text. There one such
    token at the end of a row is its end, and two are padding.
    """
    if attention_mask is not None or input_ids.dim() != 2 or input_ids.numel() == 0:
        return
    encoder = getattr(config, "backbone_config", config)
    pad = config.pad_token_id
    if pad is None:
        return
    ends = [getattr(encoder, name, None) for name in _ENDS]
    least = 2 if any(pad in (end if isinstance(end, list) else [end]) for end in ends) else 1
    if input_ids.shape[1] < least:
        return
    padded = input_ids == pad
    rows = (padded[:, :least].all(1) | padded[:, -least:].all(1)).nonzero().flatten()
    if len(rows):
        raise ValueError(
            f"attention_mask is None, but row {int(rows[0]) + 1} of input_ids begins or ends with padding, "
            f"pad_token_id = {pad} ({len(rows)} rows do): give the attention_mask that the tokenizer returns, or ones "
            "where these are tokens"
        )


def check_sequence_labels(labels: Tensor, rows: int, config: TMuxConfig) -> None:
    """Raises ValueError if labels of sequences do not fit ``config.problem_type`` and the number of labels."""
    integer = not labels.is_floating_point()
    problem = config.problem_type
    if problem is None:
        many = "single_label_classification" if integer else "multi_label_classification"
        problem = "regression" if config.num_labels == 1 else many
    if problem == "single_label_classification":
        if tuple(labels.shape) not in ((rows,), (rows, 1)):
            raise ValueError(f"labels has shape {tuple(labels.shape)}, expected ({rows},) for {problem}")
        if not integer:
            raise ValueError(f"labels has dtype {labels.dtype}, expected an integer dtype for {problem}")
        _check_labels_range(labels, config.num_labels)
        return
    allowed = [(rows, config.num_labels)]
    if problem == "regression" and config.num_labels == 1:
        allowed.append((rows,))
    if tuple(labels.shape) not in allowed:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, expected {' or '.join(map(str, allowed))} for {problem}"
        )
    if integer:
        raise ValueError(f"labels has dtype {labels.dtype}, expected a floating point dtype for {problem}")


def check_token_labels(labels: Tensor, inputs: Tensor, size: int) -> None:
    """Raises ValueError unless labels are integers below ``size``, or -100, for each position of ``inputs``."""
    if tuple(labels.shape) != tuple(inputs.shape[:2]):
        raise ValueError(f"labels has shape {tuple(labels.shape)}, expected {tuple(inputs.shape[:2])}")
    if labels.is_floating_point():
        raise ValueError(f"labels has dtype {labels.dtype}, expected an integer dtype")
    _check_labels_range(labels, size)


def _check_labels_range(labels: Tensor, size: int) -> None:
    """Checks the values of labels. -100, which stands for no label, is left out."""
    if not torch.compiler.is_compiling() and labels.device.type == "cpu":  # on a GPU the selection would wait for it
        check_range("labels", labels[labels != IGNORE_INDEX], size)
