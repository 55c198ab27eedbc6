"""Tokens of a shard to logits: groups are full, rows of like length share a pass, padding is cut off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fastmux.joined_configuration import JoinedConfig
from fastmux.labelling.plan import length_batches
from fastmux.labelling.tokens import Tokens
from fastmux.models.cascade import confidence
from fastmux.models.grouping import average_slots, group_rows
from fastmux.models.prediction import predicting, problem_of


@dataclass
class Passes:
    """How a model is run on shards.

    Args:
        model: in eval mode, on its device.
        pad_id: of the tokenizer.
        batch_tokens: positions that a pass of the encoder takes at most.
        copies: slots that each row takes.
        types: the model takes ``token_type_ids``.
    """

    model: PreTrainedModel
    pad_id: int
    batch_tokens: int
    copies: int = 1
    types: bool = True

    def __post_init__(self) -> None:
        config = self.model.config
        self.device = next(self.model.parameters()).device
        self.slots = slots_of(self.model)
        self.prefix = getattr(config, "prefix_length", 0)
        # What joins rows in its deeper layers alone runs the others on every row.
        self.shared = 1 if isinstance(config, JoinedConfig) else self.slots // self.copies
        group_rows(torch.arange(0), self.slots, self.copies)  # says what is wrong with copies

    def batches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Rows of every pass."""
        together = self.slots // self.copies
        return length_batches(lengths, self.batch_tokens, together, shared=self.shared, prefix=self.prefix)

    def logits(self, tokens: Tokens, rows: np.ndarray, width: int | None = None) -> Tensor:
        """Of some rows that share a pass: (B, C), or (B, L, C) with L the longest row's."""
        width = width or max(1, int(tokens.lengths[rows].max()))
        slots = group_rows(torch.arange(len(rows)), self.slots, self.copies)
        arrays = tokens.padded(rows[slots.flatten().numpy()], width, self.pad_id)
        if not self.types:
            arrays.pop("token_type_ids", None)
        logits = self.model(**{name: self._moved(array) for name, array in arrays.items()}).logits
        if self.copies == 1 and slots.numel() == len(rows):
            return logits
        return average_slots(logits, slots, len(rows))

    def _moved(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        # From pinned memory the copy goes on while the next batch is made ready.
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)


@torch.inference_mode()
def shard_logits(
    tokens: Tokens, passes: Passes, per_token: bool, fallback: Passes | None = None, min_confidence: float = 0.0
) -> tuple[Tensor, int]:
    """Logits of all rows of a shard, (rows, C), or of their tokens, (tokens, C); and how many rows the fallback took.

    Raises:
        ValueError: the logits are NaN or infinite.
    """
    rows, labels = len(tokens.lengths), passes.model.config.num_labels
    out = torch.zeros((len(tokens.ids) if per_token else rows, labels), device=passes.device)
    problem = "single_label_classification" if per_token else problem_of(passes.model)
    unsure = []
    with predicting(passes.model):
        for batch in passes.batches(tokens.lengths):
            logits = passes.logits(tokens, batch)
            _put(out, logits, tokens, batch)
            if fallback is not None:
                inside = _inside(logits, tokens, batch) if per_token else None
                sure = confidence(logits, problem, inside)
                unsure.append(batch[(sure < min_confidence).cpu().numpy()])
    again = np.sort(np.concatenate(unsure)) if unsure else np.zeros(0, np.int64)
    if len(again):
        with predicting(fallback.model):
            for batch in fallback.batches(tokens.lengths[again]):
                _put(out, fallback.logits(tokens, again[batch]), tokens, again[batch])
    if not bool(torch.isfinite(out).all()):
        raise ValueError("the model returns NaN or infinity; are its weights damaged, or too large for the dtype?")
    return out, len(again)


def _put(out: Tensor, logits: Tensor, tokens: Tokens, rows: np.ndarray) -> None:
    """Logits of a batch to their rows, or to their tokens, in ``out``."""
    if logits.dim() == 2:
        out[torch.from_numpy(rows).to(out.device)] = logits.to(out)
        return
    out[torch.from_numpy(tokens.flat(rows)).to(out.device)] = logits[_inside(logits, tokens, rows)].to(out)


def _inside(logits: Tensor, tokens: Tokens, rows: np.ndarray) -> Tensor:
    """Which positions of a batch are no padding, (B, L)."""
    inside = torch.arange(logits.shape[1]) < torch.from_numpy(tokens.lengths[rows])[:, None]
    return inside.to(logits.device)


def slots_of(model: PreTrainedModel) -> int:
    """Rows that share a group: N of a T-MUX, or where rows are joined; 1 of any other model."""
    config = model.config
    if isinstance(config, JoinedConfig) and config.join == "positions":
        return 1
    return getattr(config, "num_instances", 1)
