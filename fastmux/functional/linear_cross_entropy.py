"""`linear_cross_entropy`: the cross-entropy of retrieval, which never holds all logits (R, V) in memory.

PyTorch has an op of this name from 2.13 on. It is not used: torch 2.11 does not have it, and on the CPU where it was
tried (768 rows, V = 30,522, d = 128, float32) its chunks took 3.8 s forward and backward, plain logits 0.44 s.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.functional._checks import Shapes, check_floating, check_index, check_range
from fastmux.functional._ops import once_differentiable, run

# Logits in memory at a time. On a CPU: 4 MiB of float32, much of which the caches hold. Elsewhere: 512 MiB, so that
# some 15 launches per chunk, and one read and write of the weight's gradient, cost little. No chunk has fewer rows than
# a matrix product needs to run at nearly its full rate.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
MIN_ROWS = 64


def chunk_rows(rows: int, vocab_size: int, device_type: str) -> int:
    """The number of rows of hidden states in one chunk."""
    elements = CHUNK_ELEMENTS.get(device_type, CHUNK_ELEMENTS["cuda"])
    return max(1, min(rows, max(MIN_ROWS, elements // max(1, vocab_size))))


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, *, ignore_index: int = -100
) -> Tensor:
    """``F.cross_entropy(F.linear(hidden, weight, bias), target, ignore_index=ignore_index)`` in chunks of rows.

    If every target is ignored, the loss is 0 with zero gradients, where PyTorch gives NaN.

    Args:
        hidden: The hidden states (R, d).
        weight: The decoder's weight (V, d).
        target: Integers (R) from 0 to V - 1, or ``ignore_index``.
        bias: The decoder's bias (V), or None.
        ignore_index: The target that does not count.

    Returns:
        The mean over the targets that count, a scalar in float32 or wider.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (on a CPU) a target is out of range.

    Example:
        >>> import torch
        >>> from fastmux.functional import linear_cross_entropy
        >>> loss = linear_cross_entropy(torch.zeros(3, 8), torch.zeros(10, 8), torch.tensor([1, 2, -100]))
        >>> round(loss.exp().item(), 4)
        10.0
    """
    shapes = Shapes("linear_cross_entropy")
    shapes.bind(hidden=(hidden, "Rd"), weight=(weight, "Vd"), target=(target, "R"))
    if bias is not None:
        shapes.bind(bias=(bias, "V"))
    check_floating("linear_cross_entropy", hidden=hidden, weight=weight, bias=bias)
    check_index("linear_cross_entropy", "target", target, None, hidden)
    target = target.long()
    check_range("linear_cross_entropy: target", target, weight.shape[0], ignore_index)
    return run(LinearCrossEntropy, hidden, weight, bias, target, ignore_index)


class LinearCrossEntropy(torch.autograd.Function):
    """dlogits = (softmax(logits) - onehot(target)) / count is computed chunk by chunk while the logits are in memory.
    Forward and backward together then take three matrix products, as without chunks; computing logits again would take
    four."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, ignore_index: int) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        counted = target != ignore_index
        count = counted.sum().clamp(min=1)
        chunks = list(_chunks(hidden.shape[0], weight.shape[0], hidden.device.type))
        loss = hidden.new_zeros((), dtype=wide)
        if not (need_h or need_w or need_b):
            for part in chunks:
                logits = F.linear(hidden[part], weight, bias).to(wide)
                loss = loss + F.cross_entropy(logits, target[part], ignore_index=ignore_index, reduction="sum")
            return loss / count
        share = counted.to(wide) / count
        target = target.masked_fill(~counted, 0)
        dhidden = torch.zeros_like(hidden) if need_h else None
        dweight = None
        dbias = torch.zeros_like(bias, dtype=wide) if need_b else None
        for part in chunks:
            logits = F.linear(hidden[part], weight, bias)
            low = logits.dtype  # autocast's, where it is on
            log_p = torch.log_softmax(logits, -1, dtype=wide)
            del logits
            index, weights = target[part, None], share[part, None]
            loss = loss - (log_p.gather(1, index) * weights).sum()
            # From log-probabilities to gradients in one buffer.
            dlogits = log_p.exp_().scatter_add_(1, index, -torch.ones_like(weights)).mul_(weights)
            if need_w and low == wide and len(chunks) == 1 and hidden.shape[0] <= hidden.shape[1]:
                # dlogits is smaller than the weight's gradient: save it, and multiply in backward, scaled by dloss.
                ctx.save_for_backward(dlogits, None, None, None, hidden, weight)
                return loss
            if need_b:
                dbias += dlogits.sum(0)
            dlogits = dlogits.to(low)
            if need_h:
                dhidden[part] = dlogits @ weight.to(low)
            if need_w:
                if dweight is None:
                    dweight = (dlogits.T @ hidden[part].to(low)).to(wide)
                elif low == wide:
                    dweight.addmm_(dlogits.T, hidden[part])
                else:
                    dweight += dlogits.T @ hidden[part].to(low)
            del log_p, dlogits  # else two chunks are in memory while the next one is computed
        if need_w and dweight is None:  # there are no rows
            dweight = torch.zeros_like(weight, dtype=wide)
        # The inputs are saved so that a second derivative does not take the gradients for constants.
        ctx.save_for_backward(None, dhidden, dweight, dbias, hidden, weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss: Tensor):
        weight_dtype, bias_dtype = ctx.dtypes
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        dlogits, *saved, hidden, weight = ctx.saved_tensors
        if dlogits is not None:
            dlogits = dlogits * dloss
            dhidden = dlogits @ weight if need_h else None
            dweight = dlogits.T @ hidden if need_w else None
            dbias = dlogits.sum(0) if need_b else None
        else:
            dhidden, dweight, dbias = (None if t is None else t * dloss.to(t.dtype) for t in saved)
        return (
            dhidden,
            None if dweight is None else dweight.to(weight_dtype),
            None if dbias is None else dbias.to(bias_dtype),
            None,
            None,
        )


def _chunks(rows: int, vocab_size: int, device_type: str) -> Iterator[slice]:
    step = chunk_rows(rows, vocab_size, device_type)
    return (slice(start, start + step) for start in range(0, rows, step))


@torch.no_grad()
def linear_argmax(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(hidden, weight, bias).argmax(-1)`` in chunks of rows: hidden (R, d), weight (V, d) -> (R) int64."""
    if not hidden.shape[0]:
        return torch.empty(0, dtype=torch.long, device=hidden.device)
    chunks = hidden.split(chunk_rows(hidden.shape[0], weight.shape[0], hidden.device.type))
    return torch.cat([F.linear(chunk, weight, bias).argmax(-1) for chunk in chunks])
