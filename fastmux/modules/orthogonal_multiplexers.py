"""Multiplexers that rotate features: by random matrices, by blocks of them, by fast Hadamard transforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.functional.hadamard_matrices import check_order
from fastmux.modules.is_plain import is_plain
from fastmux.modules.multiplexer import (
    MULTIPLEXERS,
    LinearMultiplexer,
    at_most_width,
    draw_signs,
    from_checkpoint,
)


@MULTIPLEXERS.register("orthogonal")
class OrthogonalMultiplexer(LinearMultiplexer):
    """``y = 1/sqrt(N) sum_i O_i x_i`` with O_i Haar-random orthogonal (DataMUX, section 3.1, ``random_ortho``)."""

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width, learnable=learnable)
        self._set_transforms(torch.empty(num_instances, width, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not from_checkpoint(self.transforms):
            for matrix in self.transforms:
                matrix.copy_(_random_rotation(matrix))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.orthogonal_mux(x, self.transforms)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        if not is_plain(self, OrthogonalMultiplexer):
            return super().multiplex_prefix(own, shared)
        difference = (own - shared[:-1])[..., None]
        correction = nn.functional.pad((self.transforms @ difference).squeeze(-1), (0, 0, 0, 1))
        return (shared @ self.transforms.sum(0).mT + correction) * self.num_instances**-0.5


def _random_rotation(like: Tensor) -> Tensor:
    """Draws a Haar-random orthogonal matrix in float32 or wider: torch cannot factorise narrower ones on a CPU."""
    return nn.init.orthogonal_(torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32)))


@MULTIPLEXERS.register("low_rank_orthogonal")
class LowRankOrthogonalMultiplexer(OrthogonalMultiplexer):
    """`orthogonal` with ``O_i = U_i H_i^T``, where U_i and H_i are the i-th blocks of d/N columns of two random
    rotations: every instance keeps d/N of its dimensions, in its own subspace (``random_ortho_low_rank``).

    Raises:
        ValueError: N is larger than the width.
    """

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        at_most_width("low_rank_orthogonal", num_instances, width)
        super().__init__(num_instances, width, learnable=learnable)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if from_checkpoint(self.transforms):
            return
        rank = self.width // self.num_instances
        out, into = (_random_rotation(self.transforms[0]) for _ in range(2))
        for i, matrix in enumerate(self.transforms):
            block = slice(i * rank, (i + 1) * rank)
            matrix.copy_(out[:, block] @ into[:, block].T)


@MULTIPLEXERS.register("walsh_hadamard")
class WalshHadamardMultiplexer(LinearMultiplexer):
    """`orthogonal` with ``O_i = H D_i H D'_i``, H the Walsh-Hadamard transform, D_i and D'_i random signs.

    It takes O(d log d) operations per position and stores 2d signs per instance. The signs are fixed.

    Raises:
        ValueError: No Hadamard matrix of this width is known.
    """

    inner_signs: Tensor
    outer_signs: Tensor
    one: Tensor

    def __init__(self, num_instances: int, width: int):
        super().__init__(num_instances, width)
        check_order("multiplexer 'walsh_hadamard'", "the embedding", width)
        for name in ("inner_signs", "outer_signs"):
            self.register_buffer(name, torch.empty(num_instances, width, dtype=torch.int8))
        # Signs stay integers when the model's dtype changes; this tensor follows it.
        self.register_buffer("one", torch.empty(()), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.ones_(self.one)
        for signs in (self.inner_signs, self.outer_signs):
            draw_signs(signs)

    @property
    def transforms(self) -> Tensor:  # type: ignore[override]  # a tensor of the other classes, computed here
        """The O_i as matrices (N, d, d). Only the demultiplexer "unbind" asks for them."""
        return F.derived("transforms", self, (self.one, self.inner_signs, self.outer_signs), self._matrices)

    def _matrices(self) -> Tensor:
        dtype = torch.promote_types(self.one.dtype, torch.float32)
        eye = torch.eye(self.width, device=self.one.device, dtype=dtype)
        inner = F.walsh_hadamard(eye, transpose=True) * self.inner_signs[:, None]  # H D'_i
        return F.walsh_hadamard((self.outer_signs[:, :, None] * inner).mT).mT.to(self.one.dtype)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.walsh_hadamard_mux(x, self.inner_signs, self.outer_signs)
