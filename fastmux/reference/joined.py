"""Joining and separating states, for models whose deeper layers run on joined positions or rows; narrow layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmux.reference.mux import hadamard_mux


def join_positions(x: Tensor, keep: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """Joins N neighbouring positions of a row by their mean. The first position stays alone.

    x (B, L, d), keep (B, L), 0 at padding -> the means (B, 1 + ceil((L - 1) / N), d) without padding, and a mask of
    those that are not padding.
    """
    positions = list(range(x.shape[1]))
    windows = [[0], *(positions[start : start + num_instances] for start in range(1, x.shape[1], num_instances))]
    means, any_kept = [], []
    for window in windows:
        weights = keep[:, window].to(x.dtype)
        count = weights.sum(1)
        total = (x[:, window] * weights[..., None]).sum(1)
        # A row's first position counts even where it is masked.
        means.append(x[:, 0] if window == [0] else total / count.clamp(min=1)[:, None])
        any_kept.append(count > 0)
    return torch.stack(means, 1), torch.stack(any_kept, 1)


def separate_positions(y: Tensor, num_instances: int, length: int) -> Tensor:
    """Copies each window's state to all of its positions: y (B, 1 + ceil((length - 1) / N), d) -> (B, length, d)."""
    return torch.stack([y[:, 0 if l == 0 else 1 + (l - 1) // num_instances] for l in range(length)], 1)


def join_rows(x: Tensor, keep: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """``y = 1/sqrt(N) sum_i v_i * x_i``, padding left out.

    x (G * N, L, d), keep (G * N, L), 0 at padding, signs (N, d) of +1 and -1 -> (G, L, d), and a mask of positions
    where any row of the group is not padding.
    """
    n = len(signs)
    x, keep = x.reshape(-1, n, *x.shape[1:]), keep.reshape(-1, n, keep.shape[1])
    x = x * keep[..., None].to(x.dtype)
    return hadamard_mux(x, signs, scale=n**-0.5), keep.any(1)


def separate_rows(y: Tensor, signs: Tensor, length: int) -> Tensor:
    """``v_i * y`` for each of N rows: y (G, L, d), signs (N, d) -> (G * N, length, d).

    As v_i * v_i = 1, this recovers row i's term of y, plus noise from the others.
    """
    return torch.cat([(signs[:, None] * state[None])[:, :length] for state in y])


def feed_forward_of_positions(
    a: Tensor, keep: Tensor, num_instances: int, feed_forward: Callable[[Tensor], Tensor]
) -> Tensor:
    """``a_i + FFN(mean of the window of i)``, what a layer normalises whose feed-forward part N neighbours share.

    a (B, L, d), the attention's output at every position, keep (B, L), 0 at padding -> (B, L, d).
    """
    means, _ = join_positions(a, keep, num_instances)
    return a + separate_positions(feed_forward(means), num_instances, a.shape[1])


def narrow_output(weight: Tensor, bias: Tensor, activations: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The output matrix and bias, for the kept neurons alone, that change ``activations @ weight.T + bias`` least.

    weight (d, I), bias (d), activations (positions, I), kept (K) -> (d, K), (d). Plain least squares.
    """
    ones = torch.ones_like(activations[:, :1])
    wanted = activations @ weight.T + bias
    solved = torch.linalg.lstsq(torch.cat([activations[:, kept], ones], 1), wanted).solution
    return solved[:-1].T, solved[-1]
