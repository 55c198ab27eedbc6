"""A linear head with LayerNorm's weight and bias folded into it, for the kernels of kernels/pair_norm_head.py."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmux.functional.derived import derived
from fastmux.kernels.common.tensors import accumulator_dtype


def folded_head(
    a: Tensor, b: Tensor, ln_weight: Tensor, ln_bias: Tensor, head_weight: Tensor, head_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """H (C, d) and the shift (C) for rows of a and b: ``head(LN(x)) = rstd * (x @ H.T) + shift``.

    H is ``head_weight * ln_weight`` less the mean of each row: a head whose rows sum to 0 does not see the mean that
    LayerNorm subtracts. It is contiguous, and in bfloat16 where the kernels would round it to that. The shift is
    ``head_weight @ ln_bias + head_bias``.
    """
    weights, acc = (ln_weight, ln_bias, head_weight, head_bias), accumulator_dtype(a, b)
    return derived(f"folded for {a.dtype}, {acc}", head_weight, weights, lambda: _fold(*weights, a.dtype, acc))


def _fold(ln_weight, ln_bias, head_weight, head_bias, dtype: torch.dtype, acc: torch.dtype) -> tuple[Tensor, Tensor]:
    head = head_weight.to(acc)
    shift = head @ ln_bias.to(acc)
    shift = shift if head_bias is None else shift + head_bias.to(acc)
    head = head * ln_weight.to(acc)
    head = head - head.mean(1, keepdim=True)
    # Contiguous, where arithmetic would keep the strides of a head that lies column by column.
    head = head.to(torch.bfloat16 if dtype == torch.bfloat16 and acc == torch.float32 else acc).contiguous()
    return head, shift
