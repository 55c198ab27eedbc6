"""Multiplexers: N sequences of embeddings in, one sequence out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.configuration import TMuxConfig
from fastmux.registry import Registry

MULTIPLEXERS = Registry("multiplexer")


class Multiplexer(nn.Module):
    """A linear map of N sequences to one, ``y = scale * sum_i T_i x_i``, at the width of the encoder's embeddings.

    Subclasses hold their transforms T_i in one tensor, `transforms`, a buffer or, if ``config.learnable_transforms``, a
    parameter; `transforms` is (N, d) for a product with a vector or (N, d, d) for matrices.
    """

    transforms: Tensor

    def __init__(self, config: TMuxConfig):
        super().__init__()
        self.learnable = config.learnable_transforms
        self.num_instances, self.width = config.num_instances, config.embedding_size

    def _hold(self, transforms: Tensor) -> None:
        if self.learnable:
            self.transforms = nn.Parameter(transforms)
        else:
            self.register_buffer("transforms", transforms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the transforms anew."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its transforms are drawn")

    def forward(self, x: Tensor) -> Tensor:
        """x (G, N, L, d) -> (G, L, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        """The multiplexed index prefix, of which instance i holds own[i] at position i and shared[k] elsewhere.

        own (N, d), shared (N + 1, d) -> (N + 1, d). By linearity it is the multiplex of N equal rows ``shared`` and, at
        position k, the correction of instance k alone: 2N + 1 embeddings instead of N (N + 1).
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes the index prefix")

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}, learnable={self.learnable}"


@MULTIPLEXERS.register("hadamard")
class HadamardMultiplexer(Multiplexer):
    """``y = 1/N sum_i v_i * x_i`` with v_i ~ N(0, norm^2 I) (DataMUX, section 3.1, ``gaussian_hadamard``)."""

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self.norm = config.hadamard_norm
        self._hold(torch.empty(self.num_instances, self.width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.transforms, std=self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.hadamard_mux(x, self.transforms)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        correction = nn.functional.pad(self.transforms * (own - shared[:-1]), (0, 0, 0, 1))
        return (self.transforms.sum(0) * shared + correction) / self.num_instances


@MULTIPLEXERS.register("orthogonal")
class OrthogonalMultiplexer(Multiplexer):
    """``y = 1/sqrt(N) sum_i O_i x_i`` with O_i Haar-random orthogonal (DataMUX, section 3.1, ``random_ortho``)."""

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self._hold(torch.empty(self.num_instances, self.width, self.width))

    def reset_parameters(self) -> None:
        # transformers marks tensors that came from a checkpoint; its guard of torch.nn.init sees whole tensors, not
        # slices.
        if not getattr(self.transforms, "_is_hf_initialized", False):
            for matrix in self.transforms.detach():
                nn.init.orthogonal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return F.orthogonal_mux(x, self.transforms)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        difference = (own - shared[:-1])[..., None]
        correction = nn.functional.pad((self.transforms @ difference).squeeze(-1), (0, 0, 0, 1))
        return (shared @ self.transforms.sum(0).mT + correction) * self.num_instances**-0.5
