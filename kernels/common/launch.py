"""Functions that launchers share: the accumulator's type, tile shapes and the device guard."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tensors import accumulator_dtype

#: An option of every launch: a product and a sum become one instruction. Error bounds and instruction counts assume it.
#: From Triton 3.10 on a launch has to ask for it.
FUSED = {"enable_fp_fusion": True}
MAX_ROW = 16384  # the most features of a row that fits the registers of one program


def accumulator(*tensors: Tensor | None) -> tl.constexpr:
    """`accumulator_dtype` as a Triton type."""
    return tl.float64 if accumulator_dtype(*tensors) == torch.float64 else tl.float32


def index_type(count: int) -> tl.constexpr:
    """The integer type for division of numbers up to ``count`` plus a block. 64-bit divisions take several times as
    long."""
    return tl.int32 if count < 2**31 - 2**16 else tl.int64


def column_block(width: int, limit: int) -> int:
    """The columns of a program if rows may be cut: the largest power of two that divides ``width``, if it is at least
    64, else the next power of two; at most ``limit``. d = 768 runs in three blocks of 256 with no idle lane."""
    divisor = width & -width
    return min(limit, divisor if divisor >= 64 else triton.next_power_of_2(width))


def whole_rows(length: int, width: int, elements: int, per_thread: int) -> dict[str, int | bool]:
    """The options of a tile of whole rows: BLOCK_R rows of BLOCKS blocks of BLOCK_D columns; EXACT if none is padding.

    The tile has about ``elements`` elements, and at most ``per_thread`` per thread if 16 warps are enough. A row is cut
    into up to seven blocks of a power of two of at least 128 columns, if they make up the row exactly. Otherwise it is
    one padded block.

    Raises:
        ValueError: A row has more than `MAX_ROW` features.
    """
    if width > MAX_ROW:
        raise ValueError(f"hidden_size is {width}, the triton kernels take at most {MAX_ROW}")
    padded = max(8, triton.next_power_of_2(width))  # dropout draws eight columns at a time
    blocks, columns = 1, padded
    divisor = width & -width
    if divisor >= 128 and width // divisor < 8:
        blocks, columns = width // divisor, divisor
    rows = max(1, min(elements // padded, triton.next_power_of_2(length)))
    warps = triton.next_power_of_2(min(16, triton.cdiv(rows * blocks * columns, 32 * per_thread)))
    exact = blocks * columns == width
    return {"BLOCK_R": rows, "BLOCKS": blocks, "BLOCK_D": columns, "EXACT": exact, "num_warps": warps, **FUSED}


def register_limit(acc: tl.constexpr) -> dict[str, int]:
    """Limits the registers of kernels of whole rows, so that 16 warps fit an NVIDIA multiprocessor and keep its
    schedulers busy. Without a limit the compiler takes 128 or 168 per thread. Float64 needs more, and AMD's
    compiler accepts no limit."""
    return {} if acc == tl.float64 or torch.version.hip is not None else {"maxnreg": 128}


def on_device(t: Tensor) -> contextlib.AbstractContextManager:
    """Makes the device of ``t`` the current one, on which Triton launches."""
    return torch.cuda.device(t.device) if t.is_cuda else contextlib.nullcontext()


def multiprocessors(t: Tensor) -> int:
    """The number of multiprocessors of the tensor's GPU. 1 in the interpreter, which runs one program at a time."""
    return torch.cuda.get_device_properties(t.device).multi_processor_count if t.is_cuda else 1


def lanes() -> int:
    """The number of threads in a warp: 64 on AMD's GPUs for data centres, 32 elsewhere."""
    return 64 if torch.version.hip is not None else 32
