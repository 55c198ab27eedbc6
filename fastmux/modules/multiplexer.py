"""The base classes of multiplexers, which map N sequences of embeddings to one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.modules.registry import Registry

MULTIPLEXERS = Registry("multiplexer")
VECTORS = ("gaussian", "signs")

#: Returns the embedded index prefix: own (N, d), the token of instance i at position i, and shared (N + 1, d), what
#: every instance has at the other positions, pads and then the CLS.
Prefix = Callable[[], tuple[Tensor, Tensor]]


class Multiplexer(nn.Module):
    """The base class of multiplexers: a map of N sequences of embeddings to one. Subclasses define it in `forward`.

    Args:
        num_instances: N.
        width: d, the width of the embeddings.
    """

    def __init__(self, num_instances: int, width: int):
        super().__init__()
        self.num_instances, self.width = num_instances, width

    @classmethod
    def from_config(cls, config) -> Multiplexer:
        """Builds the multiplexer of a `fastmux.TMuxConfig`. Its ``multiplexer_options`` are keyword arguments of the
        class."""
        return cls(config.num_instances, config.embedding_size, **config.multiplexer_options or {})

    def reset_parameters(self) -> None:
        """Draws random tensors anew."""

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Multiplexes: x (G, N, L, d), attention_mask (G, N, L) -> (G, L, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

    def from_embeddings(self, x: Tensor, prefix: Prefix | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Multiplexes x and the prefix before it: x (G, N, L, d), attention_mask (G, N, L) -> (G, N + 1 + L, d), or
        (G, L, d) without a prefix.

        This works for any map: the prefixes of all instances are multiplexed along with x."""
        if prefix is not None:
            own, shared = prefix()
            x = torch.cat([whole_prefix(own, shared).expand(x.shape[0], -1, -1, -1).to(x.dtype), x], dim=2)
            if attention_mask is not None:
                attention_mask = nn.functional.pad(attention_mask, (len(shared), 0), value=1)
        return self(x, attention_mask)

    def from_tokens(
        self, input_ids: Tensor, tables: dict, prefix: Prefix | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """As `from_embeddings`, for tokens (G, N, L). ``tables`` are the other arguments of `F.instance_embeddings`."""
        return self.from_embeddings(F.instance_embeddings(input_ids, **tables), prefix, attention_mask)


class LinearMultiplexer(Multiplexer):
    """``y = scale * sum_i T_i x_i`` at each position. The index prefix does not depend on the data, so it is
    multiplexed once for all groups.

    The transforms T_i are one tensor, `transforms`: N vectors (N, d), multiplied elementwise, or N matrices (N, d, d).

    Args:
        learnable: Whether the transforms are trained. By default they are fixed, as in DataMUX.
    """

    transforms: Tensor

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width)
        self.learnable = learnable

    def _set_transforms(self, transforms: Tensor) -> None:
        """Makes ``transforms`` a parameter or a buffer of the module, and draws its values."""
        if self.learnable:
            self.transforms = nn.Parameter(transforms)
        else:
            self.register_buffer("transforms", transforms)
        self.reset_parameters()

    def from_embeddings(self, x: Tensor, prefix: Prefix | None = None, attention_mask: Tensor | None = None) -> Tensor:
        return self._behind(prefix, self(x))

    def _behind(self, prefix: Prefix | None, y: Tensor) -> Tensor:
        return y if prefix is None else torch.cat([self.own_prefix(prefix, y).expand(y.shape[0], -1, -1), y], dim=1)

    def own_prefix(self, prefix: Prefix, like: Tensor) -> Tensor:
        """The multiplexed prefix (N + 1, d) on the device and in the dtype of ``like``."""
        own = F.derived(f"prefix on {like.device}", self, (), lambda: self.multiplex_prefix(*prefix()))
        return own.to(like.dtype)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        """Multiplexes the index prefix: own (N, d), shared (N + 1, d) -> (N + 1, d). Instance i has own[i] at position
        i and shared[k] at every other position k.

        This multiplexes all N prefixes. A subclass may do with 2N + 1 embeddings in place of N (N + 1): by linearity
        the result is the multiplex of N equal rows ``shared``, corrected at position k for instance k alone.
        """
        return self(whole_prefix(own, shared)[None]).squeeze(0)

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}, learnable={self.learnable}"


def whole_prefix(own: Tensor, shared: Tensor) -> Tensor:
    """Returns the prefix of every instance: own (N, d), shared (N + 1, d) -> (N, N + 1, d)."""
    at_home = torch.eye(len(shared), device=own.device, dtype=torch.bool)[:-1, :, None]
    return torch.where(at_home, own[:, None], shared)


def from_checkpoint(t: Tensor) -> bool:
    """Whether transformers loaded ``t`` from a checkpoint, which must not be drawn anew. Its own guard in torch.nn.init
    sees whole tensors only, not slices."""
    return getattr(t, "_is_hf_initialized", False)


def draw_signs(t: Tensor) -> None:
    if not from_checkpoint(t):
        t.copy_(2 * torch.randint_like(t, 2) - 1)


def at_most_width(name: str, num_instances: int, width: int) -> None:
    if num_instances > width:
        raise ValueError(
            f"multiplexer {name!r} gives each instance a share of the features: num_instances is {num_instances}, "
            f"expected at most the width of the embeddings, {width}"
        )
