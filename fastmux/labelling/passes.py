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
from fastmux.models.grouping import average_slots, check_copies, group_rows
from fastmux.models.padding import least_width
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
        check_copies(self.copies, self.slots)
        self.prefix = getattr(config, "prefix_length", 0)
        self.least = max(1, least_width(self.model))
        # What joins rows in its deeper layers alone runs the others on every row.
        self.shared = 1 if isinstance(config, JoinedConfig) else self.slots // self.copies

    def problem(self, per_token: bool) -> str:
        """What kind of labels it gives, as in Hugging Face's ``problem_type``."""
        return "single_label_classification" if per_token else problem_of(self.model)

    def batches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Rows of every pass."""
        together = self.slots // self.copies
        lengths = np.maximum(lengths, self.least)
        return length_batches(lengths, self.batch_tokens, together, shared=self.shared, prefix=self.prefix)

    def logits(self, tokens: Tokens, rows: np.ndarray, slots: Tensor | None = None) -> Tensor:
        """Of some rows that share a pass: (B, C), or (B, L, C) with L the longest row's, or what the model wants.

        Args:
            slots: (G, N), the place in ``rows`` of the row in every slot; groups of rows in a row if None.
        """
        width = max(self.least, int(tokens.lengths[rows].max()))
        if slots is None:
            slots = group_rows(torch.arange(len(rows)), self.slots, self.copies)
        arrays = tokens.padded(rows[slots.flatten().numpy()], width, self.pad_id)
        if not self.types:
            arrays.pop("token_type_ids", None)
        logits = self.model(**{name: self._moved(array) for name, array in arrays.items()}).logits
        if torch.equal(slots.flatten(), torch.arange(len(rows))):
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
    problem = passes.problem(per_token)
    doubtful = []
    with predicting(passes.model):
        for batch in passes.batches(tokens.lengths):
            logits = passes.logits(tokens, batch)
            _put(out, logits, tokens, batch)
            if fallback is not None:
                doubtful.append(batch[unsure(logits, tokens, batch, problem, min_confidence)])
    again = np.sort(np.concatenate(doubtful)) if doubtful else np.zeros(0, np.int64)
    if len(again):
        with predicting(fallback.model):
            for batch in fallback.batches(tokens.lengths[again]):
                _put(out, fallback.logits(tokens, again[batch]), tokens, again[batch])
    check_finite(out)
    return out, len(again)


def unsure(logits: Tensor, tokens: Tokens, rows: np.ndarray, problem: str, min_confidence: float) -> np.ndarray:
    """Which rows of a batch a model is less sure of than that, (B): logits (B, C), or (B, L, C)."""
    inside = _inside(logits, tokens, rows) if logits.dim() == 3 else None
    return (confidence(logits, problem, inside) < min_confidence).cpu().numpy()


def check_finite(logits: Tensor) -> None:
    """Raises ValueError for logits that are NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model returns NaN or infinity; are its weights damaged, or too large for the dtype?")


def flat_logits(logits: Tensor, tokens: Tokens, rows: np.ndarray) -> Tensor:
    """Logits of a batch of rows: (B, C) as they are, (B, L, C) as those of all tokens, (tokens, C), row after row."""
    return logits if logits.dim() == 2 else logits[_inside(logits, tokens, rows)]


def _put(out: Tensor, logits: Tensor, tokens: Tokens, rows: np.ndarray) -> None:
    """Logits of a batch to their rows, or to their tokens, in ``out``."""
    places = rows if logits.dim() == 2 else tokens.flat(rows)
    out[torch.from_numpy(places).to(out.device)] = flat_logits(logits, tokens, rows).to(out)


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
