"""MUX-PLM's contextual multiplexer, which mixes positions and instances by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux.modules.elementwise_multiplexers import HadamardMultiplexer
from fastmux.modules.is_plain import tensor_of
from fastmux.modules.multiplexer import MULTIPLEXERS, Multiplexer


@MULTIPLEXERS.register("attention")
class AttentionMultiplexer(Multiplexer):
    """MUX-PLM's contextual multiplexer (section 3, "contextual multiplexing"; ``gaussian_attention_v2``).

    Four steps: a transformer layer over the positions of each instance, with a skip connection around it; the product
    of `hadamard`; a transformer layer over the instances at each position, with a skip connection; the average.

    Args:
        num_heads: The number of attention heads in both layers. In a T-MUX model this and the next four are the
            encoder's.
        intermediate_size: The width inside the MLP of both layers. 4d if None.
        dropout: The dropout after attention and MLP.
        attention_dropout: The dropout of attention weights.
        eps: The epsilon of the LayerNorms.
        mask_instances: Whether an instance's padding is kept out of the other instances.
        norm: The root mean square of the entries of the vectors, as in `HadamardMultiplexer`.
        learnable: Whether the vectors are trained.

    Raises:
        ValueError: The width is not a multiple of the number of heads, or ``norm`` is not above 0.
    """

    def __init__(
        self,
        num_instances: int,
        width: int,
        *,
        num_heads: int = 1,
        intermediate_size: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        eps: float = 1e-12,
        mask_instances: bool = True,
        norm: float = 1.0,
        learnable: bool = False,
    ):
        super().__init__(num_instances, width)
        if width % num_heads:
            raise ValueError(
                f"multiplexer 'attention' puts transformer layers on the embeddings: their width is {width}, expected "
                f"a multiple of num_heads = {num_heads}"
            )
        self.binding = HadamardMultiplexer(num_instances, width, norm=norm, learnable=learnable)
        options = (width, num_heads, intermediate_size or 4 * width, dropout, attention_dropout, eps)
        self.over_positions, self.over_instances = TransformerLayer(*options), TransformerLayer(*options)
        self.mask_instances = mask_instances

    @classmethod
    def from_config(cls, config) -> AttentionMultiplexer:
        encoder, width = config.backbone_config, config.embedding_size
        options = {
            "num_heads": getattr(encoder, "num_attention_heads", 1),
            "intermediate_size": getattr(encoder, "intermediate_size", 4 * width),
            "dropout": getattr(encoder, "hidden_dropout_prob", 0.1),
            "attention_dropout": getattr(encoder, "attention_probs_dropout_prob", 0.1),
            "eps": config.layer_norm_eps,
        }
        return cls(config.num_instances, width, **options | (config.multiplexer_options or {}))

    @property
    def transforms(self) -> Tensor:
        """The vectors, (N, d)."""
        return tensor_of(self.binding, "transforms")

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        groups, _, length, width = x.shape
        mask = None if attention_mask is None else attention_mask != 0
        rows = x.flatten(0, 1)
        rows = rows + self.over_positions(rows, None if mask is None else mask.flatten(0, 1))
        x = rows.view(x.shape) * self.transforms[:, None]
        columns = x.transpose(1, 2).flatten(0, 1)
        if mask is not None:
            mask = mask.transpose(1, 2).flatten(0, 1) if self.mask_instances else None
        columns = columns + self.over_instances(columns, mask)
        return columns.mean(1).view(groups, length, width)


class TransformerLayer(nn.Module):
    """A layer of BERT's encoder: attention and an MLP, each followed by a skip connection and a LayerNorm."""

    def __init__(
        self, width: int, num_heads: int, intermediate_size: int, dropout: float, attention_dropout: float, eps: float
    ):
        super().__init__()
        self.num_heads = num_heads
        # A module, so that code which sets the dropout of all modules finds it.
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_output, self.attention_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.intermediate, self.output = nn.Linear(width, intermediate_size), nn.Linear(intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps x (rows, positions, d) to the same shape. Every position attends to those where mask (rows, positions)
        is True."""
        if mask is not None:
            # A row without any such position attends to all: the authors add one large negative number to them all.
            mask = mask | ~mask.any(-1, keepdim=True)
            mask = x.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(x.dtype).min)[:, None, None]
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.attention_dropout.p if self.attention_dropout.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout)
        attended = self.attention_output(attended.transpose(1, 2).flatten(2))
        x = self.attention_norm(x + self.dropout(attended))
        return self.output_norm(x + self.dropout(self.output(nn.functional.gelu(self.intermediate(x)))))
