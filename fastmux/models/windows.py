"""Windows of N neighbouring positions: their means, and copies of them. The first position is a window of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def join_windows(x: Tensor, keep: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    """Averages neighbours: x (B, L, d), keep (B, L), False at padding -> (B, 1 + ceil((L - 1) / N), d), and a mask of
    the windows that hold a position which is not padding."""
    first, rest = x[:, :1], x[:, 1:]
    windows = (rest.shape[1] + size - 1) // size
    fill = windows * size - rest.shape[1]
    if keep is None and not fill:
        return torch.cat([first, rest.unflatten(1, (-1, size)).mean(2)], dim=1), None
    real = x.new_ones(rest.shape[:2]) if keep is None else keep[:, 1:].to(x.dtype)
    total = nn.functional.pad(rest * real[..., None], (0, 0, 0, fill)).unflatten(1, (-1, size)).sum(2)
    count = nn.functional.pad(real, (0, fill)).unflatten(1, (-1, size)).sum(2)
    joined = torch.cat([first, total / count.clamp(min=1)[..., None]], dim=1)
    if keep is None:
        return joined, None  # a short last window still holds a state
    return joined, torch.cat([keep[:, :1], count > 0], dim=1)


def separate_windows(y: Tensor, size: int, length: int) -> Tensor:
    """Copies each window's state to its positions: y (B, 1 + ceil((length - 1) / N), d) -> (B, length, d)."""
    if torch.compiler.is_exporting():
        # The slice below has the right length for every L, but a program cannot prove it.
        places = torch.arange(length, device=y.device)
        return y[:, (places + size - 1) // size]
    rest = y[:, 1:].repeat_interleave(size, dim=1)[:, : length - 1]
    return torch.cat([y[:, :1], rest], dim=1)


def feed_forward_change(layer: nn.Module, states: Tensor) -> Tensor:
    """What the feed-forward part of a BERT-like layer adds to states (..., d), before the norm: (..., d)."""
    return layer.output.dropout(layer.output.dense(layer.intermediate(states)))


def feed_forward_of_windows(
    layer: nn.Module, states: Tensor, mask: Tensor | None, keep: Tensor | None, size: int
) -> Tensor:
    """Runs a BERT-like layer whose attention is of every position and whose feed-forward layer is of each window's
    mean: states (B, L, d), mask in the form of the attention implementation, keep (B, L) -> (B, L, d)."""
    attended = layer.attention(states, mask)[0]
    joined, _ = join_windows(attended, keep, size)
    change = feed_forward_change(layer, joined)
    return layer.output.LayerNorm(separate_windows(change, size, states.shape[1]) + attended)
