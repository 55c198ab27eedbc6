"""`hadamard_mux`: the Hadamard product of each instance with its vector, and the average. Kernel:
kernels/hadamard_mux.py."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmux.backends import choose_backend
from fastmux.functional._checks import Shapes, check_floating
from fastmux.functional._instance_sums import weighted_sum, weighted_sum_dv
from fastmux.functional._ops import kernel_op, once_differentiable, run
from fastmux.kernels.common.tensors import accumulator_dtype


def hadamard_mux(x: Tensor, instance_vectors: Tensor, *, scale: float | None = None) -> Tensor:
    """Multiplex N instances: ``y = scale * sum_i v_i * x_i`` (DataMUX, section 3.1, "Hadamard product").

    Args:
        x: The embeddings (G, N, L, d), of any strides and floating dtype. For a batch (G*N, L, d), use ``x.unflatten(0,
            (G, N))``.
        instance_vectors: The vectors v_i, (N, d).
        scale: The factor of the sum. 1/N by default.

    Returns:
        (G, L, d) in the dtype of ``x``, accumulated in float32 (float64 for float64 inputs).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit.

    Example:
        >>> import torch
        >>> from fastmux.functional import hadamard_mux
        >>> hadamard_mux(torch.ones(3, 2, 5, 8), torch.full((2, 8), 4.0))[0, 0, 0].item()
        4.0
    """
    Shapes("hadamard_mux").bind(x=(x, "GNLd"), instance_vectors=(instance_vectors, "Nd"))
    check_floating("hadamard_mux", x=x, instance_vectors=instance_vectors)
    if x.shape[1] == 0:
        raise ValueError(f"hadamard_mux: x has shape {tuple(x.shape)}, expected at least one instance (N >= 1)")
    if scale is None:
        scale = 1.0 / x.shape[1]
    return run(HadamardMux, x, instance_vectors, float(scale), choose_backend(x))


class HadamardMux(torch.autograd.Function):
    """dx_i = scale * v_i * dy;  dv_i = scale * sum_{g, l} dy * x_i."""

    @staticmethod
    def forward(ctx, x: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        # Only dv needs x: with fixed vectors the forward pass saves nothing of size G*N*L*d.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, v)
        ctx.scale, ctx.backend, ctx.x_dtype = scale, backend, x.dtype
        return _FORWARD[backend](x, v, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, v = ctx.saved_tensors
        dx = _DX[ctx.backend](dy, v, ctx.scale, ctx.x_dtype) if ctx.needs_input_grad[0] else None
        dv = _DV[ctx.backend](dy, x, ctx.scale, v.dtype) if ctx.needs_input_grad[1] else None
        return dx, dv, None, None


@kernel_op("hadamard_mux")
def hadamard_mux_forward(x: Tensor, v: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:])


@kernel_op("hadamard_mux")
def hadamard_mux_dx(dy: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return dy.new_empty((dy.shape[0], v.shape[0], *dy.shape[1:]), dtype=dtype)


@kernel_op("hadamard_mux")
def hadamard_mux_dv(dy: Tensor, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return x.new_empty((x.shape[1], x.shape[3]), dtype=dtype)


def _forward_torch(x: Tensor, v: Tensor, scale: float) -> Tensor:
    return weighted_sum(x, v.to(accumulator_dtype(x, v)) * scale).to(x.dtype)


def _dx_torch(dy: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    acc = accumulator_dtype(dy, v)
    return ((v.to(acc) * scale)[:, None, :] * dy[:, None].to(acc)).to(dtype)


def _dv_torch(dy: Tensor, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return weighted_sum_dv(x, dy.to(accumulator_dtype(dy, x)) * scale).to(dtype)


_FORWARD = {"torch": _forward_torch, "triton": hadamard_mux_forward}
_DX = {"torch": _dx_torch, "triton": hadamard_mux_dx}
_DV = {"torch": _dv_torch, "triton": hadamard_mux_dv}
