"""Multiplexers that scale every feature: by random vectors, by masks, or not at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.modules.is_plain import is_plain
from fastmux.modules.multiplexer import (
    MULTIPLEXERS,
    VECTORS,
    LinearMultiplexer,
    at_most_width,
    draw_signs,
    from_checkpoint,
)


@MULTIPLEXERS.register("hadamard")
class HadamardMultiplexer(LinearMultiplexer):
    """``y = 1/N sum_i v_i * x_i`` (DataMUX, section 3.1, ``gaussian_hadamard``).

    Args:
        norm: The root mean square of the entries of each vector, above 0.
        vectors: "gaussian" (default): v_i ~ N(0, norm^2 I), as in DataMUX. "signs": entries of +norm and -norm. At norm
            1 these undo themselves, v_i * (v_i * x) = x, which helps the demultiplexer "unbind".
        learnable: Whether the vectors are trained. By default they are fixed, as in DataMUX.

    Raises:
        ValueError: A value is outside of what is listed above.

    Example:
        >>> import torch
        >>> from fastmux.modules import HadamardMultiplexer
        >>> mux = HadamardMultiplexer(4, 32, vectors="signs")
        >>> mux(torch.randn(2, 4, 7, 32)).shape
        torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        num_instances: int,
        width: int,
        *,
        norm: float = 1.0,
        vectors: str = "gaussian",
        learnable: bool = False,
    ):
        super().__init__(num_instances, width, learnable=learnable)
        if not norm > 0.0:
            raise ValueError(f"norm is {norm}, expected a number above 0")
        if vectors not in VECTORS:
            raise ValueError(f"vectors is {vectors!r}, expected one of {', '.join(map(repr, VECTORS))}")
        self.norm, self.vectors = norm, vectors
        self._set_transforms(torch.empty(num_instances, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.vectors == "gaussian":
            nn.init.normal_(self.transforms, std=self.norm)
        elif not from_checkpoint(self.transforms):
            draw_signs(self.transforms)
            self.transforms.mul_(self.norm)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.hadamard_mux(x, self.transforms)

    def from_tokens(self, input_ids, tables, prefix=None, attention_mask=None) -> Tensor:
        if not is_plain(self, HadamardMultiplexer):
            return super().from_tokens(input_ids, tables, prefix, attention_mask)
        return self._behind(prefix, F.embedding_mux(input_ids, self.transforms, **tables))

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        if not is_plain(self, HadamardMultiplexer):
            return super().multiplex_prefix(own, shared)
        correction = nn.functional.pad(self.transforms * (own - shared[:-1]), (0, 0, 0, 1))
        return (self.transforms.sum(0) * shared + correction) / self.num_instances


@MULTIPLEXERS.register("binary")
class BinaryMultiplexer(HadamardMultiplexer):
    """`hadamard` with masks in place of vectors: v_i is 1 on the i-th of N chunks of the features, 0 elsewhere
    (DataMUX, ``binary_hadamard``).

    Args:
        overlap: The part of its length by which each chunk reaches into the one before it, from 0 to 1.
        learnable: Whether the masks are trained. They are fixed by default.

    Raises:
        ValueError: ``overlap`` is out of range, or N is larger than the width.
    """

    def __init__(self, num_instances: int, width: int, *, overlap: float = 0.3, learnable: bool = False):
        at_most_width("binary", num_instances, width)
        if not 0.0 <= overlap <= 1.0:
            raise ValueError(f"overlap is {overlap}, expected a number from 0 to 1")
        self.overlap = overlap
        super().__init__(num_instances, width, learnable=learnable)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if from_checkpoint(self.transforms):
            return
        chunk = self.width // self.num_instances
        self.transforms.zero_()
        for i, mask in enumerate(self.transforms):
            last = i == self.num_instances - 1
            mask[max(0, i * chunk - int(self.overlap * chunk)) : None if last else (i + 1) * chunk] = 1.0


@MULTIPLEXERS.register("identity")
class IdentityMultiplexer(HadamardMultiplexer):
    """``y = 1/N sum_i x_i``: the average with no transform, an ablation (DataMUX, section 4.5). The order of the
    instances is lost, so a model can only learn what all rows of a group have in common. With ``learnable`` it is
    `hadamard` whose vectors start at ones."""

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width, learnable=learnable)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.transforms)
