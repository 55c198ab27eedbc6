"""Multiplexers that are made for images: N images in, one image out.

They have a registry of their own, for they see where a feature lies: a `Multiplexer` treats every position alike and
is given (G, N, L, d), in which height and width are gone; these are given (G, N, C, H, W). `fastmux.Multiplexed` takes
both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastmux.modules.registry import Registry

IMAGE_MULTIPLEXERS = Registry("multiplexer")


class ImageMultiplexer(nn.Module):
    """Any map of N images to one of the same shape. Subclasses say which in `forward`.

    Args:
        num_instances: N.
        width: C, channels of an image.
    """

    def __init__(self, num_instances: int, width: int):
        super().__init__()
        self.num_instances, self.width = num_instances, width

    def reset_parameters(self) -> None:
        """Draw anew what is drawn."""

    def forward(self, x: Tensor) -> Tensor:
        """x (G, N, C, H, W), floating -> (G, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}"


@IMAGE_MULTIPLEXERS.register("rotation")
class RotationMultiplexer(ImageMultiplexer):
    """``y = 1/N sum_i R_i x_i``: image i is turned by 2 pi i / N about its centre, bilinear, zeros from outside
    (DataMUX, section 5, images). Nothing is drawn or trained; image 0 stays as it is.

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
    """``y = 1/N sum_i K_i * x_i``, K_i a convolution of Gaussian weights for each instance (DataMUX, section 5,
    images). It is one convolution of N C channels to C.

    Args:
        kernel_size: of K_i, odd.
        learnable: train the weights; fixed by default, as in DataMUX.

    Raises:
        ValueError: an even kernel size, or one below 1.

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
    """``y = 1/N sum_i tanh(K'_i * tanh(K_i * x_i + b_i) + b'_i)``: two small convolutions for each instance, trained
    along with the network (DataMUX, section 5, images).

    Args:
        hidden_channels: between the two.
        kernel_size: of both, odd.

    Raises:
        ValueError: fewer than one hidden channel, an even kernel size, or one below 1.

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
        # Each image starts as loud as tanh lets it be: of quiet ones, training makes some louder and loses the rest.
        for convolution in (self.inner, self.outer):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="tanh")
            nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        bound = self.outer(self.inner(x.flatten(1, 2)).tanh()).tanh()
        return bound.unflatten(1, x.shape[1:3]).mean(1)


def _check_kernel_size(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}, expected an odd number of at least 1")
