"""How the torch backend cuts work on a CPU: into blocks whose intermediates stay in the cache.

An elementwise chain of k ops over a tensor larger than the cache moves it k times through memory; over blocks that
fit, once. On a GPU, and in a graph that a compiler fuses, a block is everything: there the price would be launches.
"""

from __future__ import annotations

import torch
from torch import Tensor

CACHE_ELEMENTS = 1 << 17  # 512 KiB of float32: a core's own cache
#: Up to so many elements, 16 MiB of float32, a result is one block: to copy blocks into it costs more than the cache
#: saves. What is larger than 32 MiB malloc fetches from the system anew each time, and every page is a fault.
WHOLE_ELEMENTS = 1 << 22


def blocks(
    like: Tensor, groups: int, instances: int, elements: int, size: int = CACHE_ELEMENTS, whole: int = 0
) -> list[tuple[slice, slice]]:
    """(group slice, instance slice) pairs that cover all, each of about ``size`` elements; ``elements`` are those of
    one instance of one group. Group by group, so that what a group's instances share stays at hand. No more than
    ``whole`` elements in all are one block."""
    traced = torch.compiler.is_compiling()
    if traced or like.device.type != "cpu" or groups * instances * elements <= whole:
        return [(slice(None), slice(None))]
    fit = max(1, size // max(1, elements))
    if fit >= instances:
        step = max(1, fit // max(1, instances))
        return [(slice(g, g + step), slice(None)) for g in range(0, groups, step)]
    return [(slice(g, g + 1), slice(n, n + fit)) for g in range(groups) for n in range(0, instances, fit)]
