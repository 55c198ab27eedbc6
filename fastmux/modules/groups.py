"""Splitting a batch of rows into groups of N."""

from __future__ import annotations

import torch
from torch import Tensor


def group(t: Tensor | None, num_instances: int) -> Tensor | None:
    """Splits rows (B, ...) into groups (G, N, ...). A short last group is filled with rows from the start of the
    batch."""
    if t is None:
        return None
    n, rows = num_instances, t.shape[0]  # len() would make it a constant of a traced graph
    if rows == 0:
        # Encoders of transformers refuse an empty batch: they run on a group of zeros, whose rows are dropped.
        t = t.new_zeros((n, *t.shape[1:]))
    elif rows % n:
        t = t[torch.arange(-(-rows // n) * n, device=t.device) % rows]
    return t.unflatten(0, (t.shape[0] // n, n))
