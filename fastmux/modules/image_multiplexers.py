"""Multiplexers for images: N images in, one image out.

They have their own registry because their input differs. They see height and width, (G, N, C, H, W), where a
`Multiplexer` sees positions that are all alike, (G, N, L, d). `fastmux.Multiplexed` takes both kinds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastmux.modules.registry import Registry

IMAGE_MULTIPLEXERS = Registry("multiplexer")


class ImageMultiplexer(nn.Module):
    """The base class of image multiplexers: a map of N images to one of the same shape. Subclasses define it in
    `forward`.

    Args:
        num_instances: N.
        width: C, the number of channels of an image.
    """

    def __init__(self, num_instances: int, width: int):
        super().__init__()
        self.num_instances, self.width = num_instances, width

    def reset_parameters(self) -> None:
        """Draws random tensors anew."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiplexes images: x (G, N, C, H, W), floating point -> (G, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}"


@IMAGE_MULTIPLEXERS.register("rotation")
class RotationMultiplexer(ImageMultiplexer):
    """``y = 1/N sum_i R_i x_i``: R_i turns image i by 2 pi i / N about its centre (DataMUX, section 5, images).

    Pixels are interpolated bilinearly, and are 0 outside of the image. There is nothing random and nothing to train.

    Example:
        >>> import torch
        >>> from fastmux.modules import RotationMultiplexer
        >>> RotationMultiplexer(4, 1)(torch.randn(2, 4, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def forward(self, x: Tensor) -> Tensor:
        n, (height, width) = self.num_instances, x.shape[-2:]
        row = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2
        column = (torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2)[None]
        angle = torch.arange(n, device=x.device, dtype=x.dtype)[:, None, None] * (2 * math.pi / n)
        # Where in image i each pixel of the turned one comes from, in grid_sample's units: x first, edges at -1 and 1.
        from_row = angle.cos() * row[:, None] + angle.sin() * column
        from_column = angle.cos() * column - angle.sin() * row[:, None]
        grid = torch.stack([from_column * 2 / width, from_row * 2 / height], dim=-1)
        images = x.movedim(1, 0).flatten(1, 2)  # (N, G C, H, W): those of an instance are turned alike
        turned = nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return turned.mean(0).unflatten(0, (x.shape[0], x.shape[2]))


@IMAGE_MULTIPLEXERS.register("convolution")
class ConvolutionMultiplexer(ImageMultiplexer):
    """``y = 1/N sum_i K_i * x_i``: each instance has a convolution K_i with Gaussian weights (DataMUX, section 5,
    images). Together they are one convolution of N C channels to C.

    Args:
        kernel_size: The size of the kernels K_i, odd.
        learnable: Whether the weights are trained. By default they are fixed, as in DataMUX.

    Raises:
        ValueError: The kernel size is even or below 1.

    Example:
        >>> import torch
        >>> from fastmux.modules import ConvolutionMultiplexer
        >>> ConvolutionMultiplexer(4, 1)(torch.randn(2, 4, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    #: (C, N C, k, k): every K_i, side by side.
    kernels: Tensor

    def __init__(self, num_instances: int, width: int, *, kernel_size: int = 3, learnable: bool = False):
        super().__init__(num_instances, width)
        _check_kernel_size(kernel_size)
        kernels = torch.empty(width, num_instances * width, kernel_size, kernel_size)
        if learnable:
            self.kernels = nn.Parameter(kernels)
        else:
            self.register_buffer("kernels", kernels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        # K_i x_i has the scale of x_i.
        nn.init.normal_(self.kernels, std=(self.kernels[0].numel() / self.num_instances) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x.flatten(1, 2), self.kernels, padding="same") / self.num_instances


@IMAGE_MULTIPLEXERS.register("nonlinear")
class NonlinearMultiplexer(ImageMultiplexer):
    """``y = 1/N sum_i tanh(K'_i * tanh(K_i * x_i + b_i) + b'_i)``: each instance has two small convolutions, which are
    trained with the network (DataMUX, section 5, images).

    Args:
        hidden_channels: The number of channels between the two convolutions.
        kernel_size: The size of both convolutions' kernels, odd.

    Raises:
        ValueError: There is no hidden channel, or the kernel size is even or below 1.

    Example:
        >>> import torch
        >>> from fastmux.modules import NonlinearMultiplexer
        >>> NonlinearMultiplexer(4, 1)(torch.randn(2, 4, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, num_instances: int, width: int, *, hidden_channels: int = 16, kernel_size: int = 3):
        super().__init__(num_instances, width)
        _check_kernel_size(kernel_size)
        if hidden_channels < 1:
            raise ValueError(f"hidden_channels is {hidden_channels}, expected at least 1")
        n, options = num_instances, {"padding": "same", "groups": num_instances}
        self.inner = nn.Conv2d(n * width, n * hidden_channels, kernel_size, **options)
        self.outer = nn.Conv2d(n * hidden_channels, n * width, kernel_size, **options)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        # Every image starts with the largest scale that tanh allows. From a small scale, training amplifies some images
        # and loses the others.
        for convolution in (self.inner, self.outer):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="tanh")
            nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        bound = self.outer(self.inner(x.flatten(1, 2)).tanh()).tanh()
        return bound.unflatten(1, x.shape[1:3]).mean(1)


def _check_kernel_size(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}, expected an odd number of at least 1")
