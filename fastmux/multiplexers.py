"""Multiplexers: N sequences of embeddings in, one sequence out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from fastmux import functional as F
from fastmux.configuration import TMuxConfig
from fastmux.functional.hadamard_matrices import check_order
from fastmux.plain import is_plain
from fastmux.registry import Registry

MULTIPLEXERS = Registry("multiplexer")


def _from_checkpoint(t: Tensor) -> bool:
    """transformers marks tensors that came from a checkpoint; its guard of torch.nn.init sees whole tensors, not
    slices."""
    return getattr(t, "_is_hf_initialized", False)


class Multiplexer(nn.Module):
    """A linear map of N sequences to one, ``y = scale * sum_i T_i x_i``, at the width of the encoder's embeddings.

    Subclasses hold their transforms T_i in one tensor, `transforms`, a buffer or, if ``config.learnable_transforms``, a
    parameter; `transforms` is (N, d) for a product with a vector or (N, d, d) for matrices. A multiplexer that also
    mixes positions or instances sets ``linear = False``: there is then no closed form of the index prefix, which is
    multiplexed with the rest.
    """

    transforms: Tensor
    linear = True
    #: ``y = 1/N sum_i transforms_i * x_i``: then `F.embedding_mux` embeds and multiplexes in one pass.
    product = False

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

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """x (G, N, L, d), attention_mask (G, N, L) -> (G, L, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it multiplexes")

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


@MULTIPLEXERS.register("hadamard")
class HadamardMultiplexer(Multiplexer):
    """``y = 1/N sum_i v_i * x_i`` with v_i ~ N(0, norm^2 I) (DataMUX, section 3.1, ``gaussian_hadamard``)."""

    product = True

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self.norm = config.hadamard_norm
        self._hold(torch.empty(self.num_instances, self.width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.transforms, std=self.norm)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.hadamard_mux(x, self.transforms)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        if not is_plain(self, type(self)):
            return super().multiplex_prefix(own, shared)
        correction = nn.functional.pad(self.transforms * (own - shared[:-1]), (0, 0, 0, 1))
        return (self.transforms.sum(0) * shared + correction) / self.num_instances


def random_rotation(like: Tensor) -> Tensor:
    """A Haar-random orthogonal matrix, float32 or wider: torch factorises nothing narrower on a CPU."""
    return nn.init.orthogonal_(torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32)))


@MULTIPLEXERS.register("orthogonal")
class OrthogonalMultiplexer(Multiplexer):
    """``y = 1/sqrt(N) sum_i O_i x_i`` with O_i Haar-random orthogonal (DataMUX, section 3.1, ``random_ortho``)."""

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        self._hold(torch.empty(self.num_instances, self.width, self.width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not _from_checkpoint(self.transforms):
            for matrix in self.transforms:
                matrix.copy_(random_rotation(matrix))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.orthogonal_mux(x, self.transforms)

    def multiplex_prefix(self, own: Tensor, shared: Tensor) -> Tensor:
        if not is_plain(self, type(self)):
            return super().multiplex_prefix(own, shared)
        difference = (own - shared[:-1])[..., None]
        correction = nn.functional.pad((self.transforms @ difference).squeeze(-1), (0, 0, 0, 1))
        return (shared @ self.transforms.sum(0).mT + correction) * self.num_instances**-0.5


@MULTIPLEXERS.register("binary")
class BinaryMultiplexer(HadamardMultiplexer):
    """`hadamard` with masks in place of vectors: v_i is 1 on the i-th of N chunks of the features, 0 elsewhere
    (DataMUX, ``binary_hadamard``). A chunk begins ``config.binary_epsilon`` of its length inside the one before it."""

    def __init__(self, config: TMuxConfig):
        if config.num_instances > config.embedding_size:
            raise ValueError(
                f"multiplexer 'binary' gives each instance a chunk of the features: num_instances is "
                f"{config.num_instances}, expected at most embedding_size = {config.embedding_size}"
            )
        self.epsilon = config.binary_epsilon
        super().__init__(config)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if _from_checkpoint(self.transforms):
            return
        chunk = self.width // self.num_instances
        self.transforms.zero_()
        for i, mask in enumerate(self.transforms):
            last = i == self.num_instances - 1
            mask[max(0, i * chunk - int(self.epsilon * chunk)) : None if last else (i + 1) * chunk] = 1.0


@MULTIPLEXERS.register("low_rank_orthogonal")
class LowRankOrthogonalMultiplexer(OrthogonalMultiplexer):
    """`orthogonal` with ``O_i = U_i H_i^T``, where U_i and H_i are the i-th blocks of d/N columns of two random
    rotations: every instance keeps d/N of its dimensions, in a subspace of its own (``random_ortho_low_rank``)."""

    def __init__(self, config: TMuxConfig):
        if config.num_instances > config.embedding_size:
            raise ValueError(
                f"multiplexer 'low_rank_orthogonal' gives each instance a subspace: num_instances is "
                f"{config.num_instances}, expected at most embedding_size = {config.embedding_size}"
            )
        super().__init__(config)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if _from_checkpoint(self.transforms):
            return
        rank = self.width // self.num_instances
        out, into = (random_rotation(self.transforms[0]) for _ in range(2))
        for i, matrix in enumerate(self.transforms):
            block = slice(i * rank, (i + 1) * rank)
            matrix.copy_(out[:, block] @ into[:, block].T)


@MULTIPLEXERS.register("walsh_hadamard")
class WalshHadamardMultiplexer(Multiplexer):
    """`orthogonal` with ``O_i = H D_i H D'_i``, H the Walsh-Hadamard transform, D and D' random signs: O(d log d) a
    position and 2d bits an instance.

    Raises:
        ValueError: if no Hadamard matrix of the embeddings' width is known, or the signs are to be learned.
    """

    def __init__(self, config: TMuxConfig):
        if config.learnable_transforms:
            raise ValueError("learnable_transforms is True, but the signs of multiplexer 'walsh_hadamard' are fixed")
        super().__init__(config)
        check_order("multiplexer 'walsh_hadamard'", "the embedding", self.width)
        for name in ("inner_signs", "outer_signs"):
            self.register_buffer(name, torch.empty(self.num_instances, self.width, dtype=torch.int8))
        # Signs are integers whatever the model's dtype is; this follows it.
        self.register_buffer("one", torch.empty(()), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.ones_(self.one)
        for signs in (self.inner_signs, self.outer_signs):
            if not _from_checkpoint(signs):
                signs.copy_(2 * torch.randint_like(signs, 2) - 1)

    @property
    def transforms(self) -> Tensor:
        """The O_i as matrices, (N, d, d), formed when asked for: by "unbind"."""
        dtype = torch.promote_types(self.one.dtype, torch.float32)
        eye = torch.eye(self.width, device=self.one.device, dtype=dtype)
        inner = F.walsh_hadamard(eye, transpose=True) * self.inner_signs[:, None]  # H D'_i
        return F.walsh_hadamard((self.outer_signs[:, :, None] * inner).mT).mT.to(self.one.dtype)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return F.walsh_hadamard_mux(x, self.inner_signs, self.outer_signs)


@MULTIPLEXERS.register("identity")
class IdentityMultiplexer(HadamardMultiplexer):
    """The average with no transform. An ablation (DataMUX, section 4.5): the order of the instances is lost, so that a
    task can learn no more than what holds for all rows of a group. Learnable, it is `hadamard` started at ones."""

    def reset_parameters(self) -> None:
        nn.init.ones_(self.transforms)


@MULTIPLEXERS.register("attention")
class AttentionMultiplexer(HadamardMultiplexer):
    """MUX-PLM's contextual multiplexer (section 3, "contextual multiplexing"; ``gaussian_attention_v2``): one
    transformer layer over the positions of each instance, with a skip connection around it; `hadamard`'s product; one
    layer over the instances at each position, with another; the average. Vectors as in `hadamard`."""

    linear = product = False

    def __init__(self, config: TMuxConfig):
        super().__init__(config)
        backbone = config.backbone_config
        heads = getattr(backbone, "num_attention_heads", 1)
        if self.width % heads:
            raise ValueError(
                f"multiplexer 'attention' puts transformer layers on the embeddings: embedding_size is {self.width}, "
                f"expected a multiple of num_attention_heads = {heads}"
            )
        options = {
            "hidden_size": self.width,
            "num_attention_heads": heads,
            "intermediate_size": getattr(backbone, "intermediate_size", 4 * self.width),
            "hidden_dropout_prob": getattr(backbone, "hidden_dropout_prob", 0.1),
            "attention_probs_dropout_prob": getattr(backbone, "attention_probs_dropout_prob", 0.1),
            "layer_norm_eps": config.layer_norm_eps,
            "attn_implementation": "sdpa",
        }
        self.over_positions = BertLayer(BertConfig(**options))
        self.over_instances = BertLayer(BertConfig(**options))
        self.mask_instances = config.mask_instances

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        groups, _, length, width = x.shape
        mask = None if attention_mask is None else attention_mask != 0
        rows = x.flatten(0, 1)
        rows = rows + _layer(self.over_positions, rows, None if mask is None else mask.flatten(0, 1))
        x = rows.view(x.shape) * self.transforms[:, None]
        columns = x.transpose(1, 2).flatten(0, 1)
        if mask is not None:
            mask = mask.transpose(1, 2).flatten(0, 1) if self.mask_instances else None
        columns = columns + _layer(self.over_instances, columns, mask)
        return columns.mean(1).view(groups, length, width)


def _layer(layer: BertLayer, x: Tensor, mask: Tensor | None) -> Tensor:
    """One encoder layer on x (rows, positions, d), attending to the positions where mask (rows, positions) is True."""
    if mask is not None:
        # Added to the scores. Not minus infinity: a row without any position to attend to would be NaN.
        scores = x.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(x.dtype).min)
        mask = scores[:, None, None].expand(-1, 1, x.shape[1], -1)
    return layer(x, attention_mask=mask)
