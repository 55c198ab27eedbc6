"""What every multiplexer is: N sequences of embeddings in, one sequence out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.modules.registry import Registry

MULTIPLEXERS = Registry("multiplexer")
VECTORS = ("gaussian", "signs")

#: The embedded index prefix, once it is called: own (N, d), each instance's token at its own position, and shared
#: (N + 1, d), what all instances have at the others: pads, then the CLS.
Prefix = Callable[[], tuple[Tensor, Tensor]]


class Multiplexer(nn.Module):
    """Any map of N sequences to one, at the width of the encoder's embeddings. Subclasses say which in `forward`.

    Args:
        num_instances: N.
        width: d, of the embeddings.
    """

    def __init__(self, num_instances: int, width: int):
        super().__init__()
        self.num_instances, self.width = num_instances, width

    @classmethod
    def from_config(cls, config) -> Multiplexer:
        """The multiplexer of a `fastmux.TMuxConfig`: its ``multiplexer_options`` are keyword arguments of the class."""
        return cls(config.num_instances, config.embedding_size, **config.multiplexer_options or {})

    def reset_parameters(self) -> None:
        """Draw anew what is drawn."""

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """x (G, N, L, d), attention_mask (G, N, L) -> (G, L, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

    def from_embeddings(self, x: Tensor, prefix: Prefix | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """The prefix and what follows it: x (G, N, L, d), attention_mask (G, N, L) -> (G, N + 1 + L, d), or (G, L, d)
        without a prefix. Here for any map: the prefixes of all instances are multiplexed with the rest."""
        if prefix is not None:
            own, shared = prefix()
            x = torch.cat([whole_prefix(own, shared).expand(x.shape[0], -1, -1, -1).to(x.dtype), x], dim=2)
            if attention_mask is not None:
                attention_mask = nn.functional.pad(attention_mask, (len(shared), 0), value=1)
        return self(x, attention_mask)

    def from_tokens(
        self, input_ids: Tensor, tables: dict, prefix: Prefix | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """As `from_embeddings`, of tokens (G, N, L) and what `F.instance_embeddings` takes beside them."""
        return self.from_embeddings(F.instance_embeddings(input_ids, **tables), prefix, attention_mask)


class LinearMultiplexer(Multiplexer):
    """``y = scale * sum_i T_i x_i``, position by position: then the index prefix, which does not depend on the data, is
    multiplexed once for all groups.

    The transforms T_i are one tensor, `transforms`: N vectors (N, d), to be multiplied with, or matrices (N, d, d).

    Args:
        learnable: train the transforms; fixed by default, as in DataMUX.
    """

    transforms: Tensor

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width)
        self.learnable = learnable

    def _set_transforms(self, transforms: Tensor) -> None:
        if self.learnable:
            self.transforms = nn.Parameter(transforms)
        else:
            self.register_buffer("transforms", transforms)
        self.reset_parameters()

    def from_embeddings(self, x: Tensor, prefix: Prefix | None = None, attention_mask: Tensor | None = None) -> Tensor:
        return self._behind(prefix, self(x))

    def _behind(self, prefix: Prefix | None, y: Tensor) -> Tensor:
        if prefix is None:
            return y
        own = F.derived(f"prefix on {y.device}", self, (), lambda: self.multiplex_prefix(*prefix()))
        return torch.cat([own.expand(y.shape[0], -1, -1).to(y.dtype), y], dim=1)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        """The multiplexed index prefix, of which instance i holds own[i] at position i and shared[k] elsewhere.

        own (N, d), shared (N + 1, d) -> (N + 1, d). By linearity it is the multiplex of N equal rows ``shared`` and, at
        position k, the correction of instance k alone: 2N + 1 embeddings instead of N (N + 1). Here for any subclass:
        all N prefixes.
        """
        return self(whole_prefix(own, shared)[None]).squeeze(0)

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}, learnable={self.learnable}"


def whole_prefix(own: Tensor, shared: Tensor) -> Tensor:
    """Every instance's prefix: own (N, d), shared (N + 1, d) -> (N, N + 1, d)."""
    at_home = torch.eye(len(shared), device=own.device, dtype=torch.bool)[:-1, :, None]
    return torch.where(at_home, own[:, None], shared)


def from_checkpoint(t: Tensor) -> bool:
    """transformers marks tensors that came from a checkpoint; its guard of torch.nn.init sees whole tensors, not
    slices."""
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
