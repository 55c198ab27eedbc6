"""What the launchers share: the accumulator's type, tile shapes and the device guard."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tensors import accumulator_dtype

#: An option of every launch: products and sums become one instruction, which the kernels are counted and bounded with.
#: From Triton 3.10 on that is off unless a launch asks for it.
FUSED = {"enable_fp_fusion": True}
MAX_ROW = 16384  # one row of this many features still fits the registers of one program


def accumulator(*tensors: Tensor | None) -> tl.constexpr:
    """`accumulator_dtype` as Triton names it."""
    return tl.float64 if accumulator_dtype(*tensors) == torch.float64 else tl.float32


def index_type(count: int) -> tl.constexpr:
    """What numbers up to ``count``, and a block beyond, are divided in: 64-bit divisions take several times as long."""
    return tl.int32 if count < 2**31 - 2**16 else tl.int64


def column_block(width: int, limit: int) -> int:
    """Columns per program when rows may be cut: the largest power of two that divides ``width``, if it is at least 64
    (d = 768 runs in three blocks of 256 with no idle lane), else the next power of two; at most ``limit``."""
    divisor = width & -width
    return min(limit, divisor if divisor >= 64 else triton.next_power_of_2(width))


def whole_rows(length: int, width: int, elements: int, per_thread: int) -> dict[str, int | bool]:
    """Options of a tile that holds whole rows, about ``elements`` elements, at most ``per_thread`` a thread if 16 warps
    are enough: BLOCK_R rows of BLOCKS blocks of BLOCK_D columns, EXACT if none of these are padding.

    A row is cut into blocks of a power of two of at least 128 columns where up to seven of them are the row; else it is
    one block, padded.

    Raises:
        ValueError: if one row has more than `MAX_ROW` features.
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
    """For kernels of whole rows: as many registers a thread as leave room for 16 warps, which keep the schedulers of
    NVIDIA's multiprocessors busy, where the compiler left to itself now takes 128, now 168. Float64 needs more, and
    AMD's compiler takes no limit."""
    return {} if acc == tl.float64 or torch.version.hip is not None else {"maxnreg": 128}


def on_device(t: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, which need not be the one that holds the tensors."""
    return torch.cuda.device(t.device) if t.is_cuda else contextlib.nullcontext()


def multiprocessors(t: Tensor) -> int:
    """Multiprocessors of the tensor's GPU; 1 under the interpreter, where one program runs at a time."""
    return torch.cuda.get_device_properties(t.device).multi_processor_count if t.is_cuda else 1


def lanes() -> int:
    """Threads of a warp: 64 on AMD's GPUs for data centres, 32 elsewhere."""
    return 64 if torch.version.hip is not None else 32
