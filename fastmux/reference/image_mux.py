"""Multiplexers of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_mux(x: Tensor) -> Tensor:
    """``y = 1/N sum_i R_i x_i``, image i turned by 2 pi i / N about its centre (DataMUX, section 5): x (G, N, C, H, W)
    -> (G, C, H, W). Interpolation is bilinear: the weight of a pixel is (1 - |row distance|) (1 - |column
    distance|)."""
    r, c = (torch.arange(size, dtype=x.dtype) - (size - 1) / 2 for size in x.shape[-2:])
    turned = []
    for i, angle in enumerate(2 * torch.pi * torch.arange(x.shape[1], dtype=x.dtype) / x.shape[1]):
        row = angle.cos() * r[:, None] + angle.sin() * c  # where pixel (h, w) of the turned image was
        column = angle.cos() * c - angle.sin() * r[:, None]
        of_rows, of_columns = (1 - (row[..., None] - r).abs()).relu(), (1 - (column[..., None] - c).abs()).relu()
        turned.append(torch.einsum("gcyx,hwy,hwx->gchw", x[:, i], of_rows, of_columns))
    return torch.stack(turned).mean(0)


def convolution_mux(x: Tensor, *layers: tuple, activation=torch.positive) -> Tensor:
    """``y = 1/N sum_i a(K_i * x_i)``, with any number of layers K and activations a (DataMUX, section 5).

    x (G, N, C, H, W), layers of (weights (N, C', C, k, k), biases (N, C') or None) -> (G, C', H, W).
    """
    images = list(x.unbind(1))
    for weights, biases in layers:
        for i, weight in enumerate(weights):
            images[i] = activation(F.conv2d(images[i], weight, None if biases is None else biases[i], padding="same"))
    return torch.stack(images).mean(0)
