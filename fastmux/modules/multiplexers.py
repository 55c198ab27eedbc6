"""Multiplexers: N sequences of embeddings in, one sequence out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.functional.hadamard_matrices import check_order
from fastmux.modules.plain import is_plain
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

    def _hold(self, transforms: Tensor) -> None:
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
        own = F.held(f"prefix on {y.device}", self, (), lambda: self.multiplex_prefix(*prefix()))
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


def _from_checkpoint(t: Tensor) -> bool:
    """transformers marks tensors that came from a checkpoint; its guard of torch.nn.init sees whole tensors, not
    slices."""
    return getattr(t, "_is_hf_initialized", False)


def _draw_signs(t: Tensor) -> None:
    if not _from_checkpoint(t):
        t.copy_(2 * torch.randint_like(t, 2) - 1)


def _at_most_width(name: str, num_instances: int, width: int) -> None:
    if num_instances > width:
        raise ValueError(
            f"multiplexer {name!r} gives each instance a share of the features: num_instances is {num_instances}, "
            f"expected at most the width of the embeddings, {width}"
        )


@MULTIPLEXERS.register("hadamard")
class HadamardMultiplexer(LinearMultiplexer):
    """``y = 1/N sum_i v_i * x_i`` (DataMUX, section 3.1, ``gaussian_hadamard``).

    Args:
        norm: root mean square of the entries of each vector, above 0.
        vectors: "gaussian", v_i ~ N(0, norm^2 I), as in DataMUX; or "signs", entries of +norm and -norm: at norm 1 the
            product undoes itself, v_i * (v_i * x) = x, which is what "unbind" asks of it.

    Raises:
        ValueError: a value outside of these.

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
        self._hold(torch.empty(num_instances, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.vectors == "gaussian":
            nn.init.normal_(self.transforms, std=self.norm)
        elif not _from_checkpoint(self.transforms):
            _draw_signs(self.transforms)
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
        overlap: by how much of its length a chunk reaches into the one before it, in [0, 1].

    Raises:
        ValueError: ``overlap`` is outside of that, or N is larger than the width.
    """

    def __init__(self, num_instances: int, width: int, *, overlap: float = 0.3, learnable: bool = False):
        _at_most_width("binary", num_instances, width)
        if not 0.0 <= overlap <= 1.0:
            raise ValueError(f"overlap is {overlap}, expected a number from 0 to 1")
        self.overlap = overlap
        super().__init__(num_instances, width, learnable=learnable)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if _from_checkpoint(self.transforms):
            return
        chunk = self.width // self.num_instances
        self.transforms.zero_()
        for i, mask in enumerate(self.transforms):
            last = i == self.num_instances - 1
            mask[max(0, i * chunk - int(self.overlap * chunk)) : None if last else (i + 1) * chunk] = 1.0


@MULTIPLEXERS.register("identity")
class IdentityMultiplexer(HadamardMultiplexer):
    """The average with no transform. An ablation (DataMUX, section 4.5): the order of the instances is lost, so that a
    task can learn no more than what holds for all rows of a group. Learnable, it is `hadamard` started at ones."""

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width, learnable=learnable)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.transforms)


@MULTIPLEXERS.register("orthogonal")
class OrthogonalMultiplexer(LinearMultiplexer):
    """``y = 1/sqrt(N) sum_i O_i x_i`` with O_i Haar-random orthogonal (DataMUX, section 3.1, ``random_ortho``)."""

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        super().__init__(num_instances, width, learnable=learnable)
        self._hold(torch.empty(num_instances, width, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not _from_checkpoint(self.transforms):
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
    """A Haar-random orthogonal matrix, float32 or wider: torch factorises nothing narrower on a CPU."""
    return nn.init.orthogonal_(torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32)))


@MULTIPLEXERS.register("low_rank_orthogonal")
class LowRankOrthogonalMultiplexer(OrthogonalMultiplexer):
    """`orthogonal` with ``O_i = U_i H_i^T``, where U_i and H_i are the i-th blocks of d/N columns of two random
    rotations: every instance keeps d/N of its dimensions, in a subspace of its own (``random_ortho_low_rank``).

    Raises:
        ValueError: N is larger than the width.
    """

    def __init__(self, num_instances: int, width: int, *, learnable: bool = False):
        _at_most_width("low_rank_orthogonal", num_instances, width)
        super().__init__(num_instances, width, learnable=learnable)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if _from_checkpoint(self.transforms):
            return
        rank = self.width // self.num_instances
        out, into = (_random_rotation(self.transforms[0]) for _ in range(2))
        for i, matrix in enumerate(self.transforms):
            block = slice(i * rank, (i + 1) * rank)
            matrix.copy_(out[:, block] @ into[:, block].T)


@MULTIPLEXERS.register("walsh_hadamard")
class WalshHadamardMultiplexer(LinearMultiplexer):
    """`orthogonal` with ``O_i = H D_i H D'_i``, H the Walsh-Hadamard transform, D and D' random signs: O(d log d) a
    position and 2d bits an instance. The signs are fixed.

    Raises:
        ValueError: if no Hadamard matrix of this width is known.
    """

    inner_signs: Tensor
    outer_signs: Tensor
    one: Tensor

    def __init__(self, num_instances: int, width: int):
        super().__init__(num_instances, width)
        check_order("multiplexer 'walsh_hadamard'", "the embedding", width)
        for name in ("inner_signs", "outer_signs"):
            self.register_buffer(name, torch.empty(num_instances, width, dtype=torch.int8))
        # Signs are integers whatever the model's dtype is; this follows it.
        self.register_buffer("one", torch.empty(()), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.ones_(self.one)
        for signs in (self.inner_signs, self.outer_signs):
            _draw_signs(signs)

    @property
    def transforms(self) -> Tensor:  # type: ignore[override]  # held by the others, formed here
        """The O_i as matrices, (N, d, d), formed when asked for: by "unbind"."""
        return F.held("transforms", self, (self.one, self.inner_signs, self.outer_signs), self._matrices)

    def _matrices(self) -> Tensor:
        dtype = torch.promote_types(self.one.dtype, torch.float32)
        eye = torch.eye(self.width, device=self.one.device, dtype=dtype)
        inner = F.walsh_hadamard(eye, transpose=True) * self.inner_signs[:, None]  # H D'_i
        return F.walsh_hadamard((self.outer_signs[:, :, None] * inner).mT).mT.to(self.one.dtype)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.walsh_hadamard_mux(x, self.inner_signs, self.outer_signs)
