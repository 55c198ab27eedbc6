"""Cuts the torch backend's work on a CPU into blocks whose intermediates stay in the cache.

A chain of k elementwise ops moves a tensor larger than the cache k times through memory; blocks that fit the cache are
moved once. On a GPU, and in a graph that a compiler fuses, there is one block, since each block costs launches.
"""

from __future__ import annotations

import torch
from torch import Tensor

CACHE_ELEMENTS = 1 << 17  # 512 KiB of float32: a core's own cache
#: A result of up to so many elements, 16 MiB of float32, is one block: copying blocks into it costs more than the cache
#: saves. Above 32 MiB, malloc takes memory from the system at every call, and every page faults.
WHOLE_ELEMENTS = 1 << 22


def blocks(
    like: Tensor, groups: int, instances: int, elements: int, size: int = CACHE_ELEMENTS, whole: int = 0
) -> list[tuple[slice, slice]]:
    """Pairs of a group slice and an instance slice that cover all instances, in blocks of about ``size`` elements.

    ``elements`` is the size of one instance of one group. Blocks go group by group, so that data which a group's
    instances share stays in the cache. Up to ``whole`` elements in all are one block.
    """
    traced = torch.compiler.is_compiling()
    if traced or like.device.type != "cpu" or groups * instances * elements <= whole:
        return [(slice(None), slice(None))]
    fit = max(1, size // max(1, elements))
    if fit >= instances:
        step = max(1, fit // max(1, instances))
        return [(slice(g, g + step), slice(None)) for g in range(0, groups, step)]
    return [(slice(g, g + 1), slice(n, n + fit)) for g in range(groups) for n in range(0, instances, fit)]
