"""Which rows share a group at inference, and in how many slots each: one checkpoint, several speeds.

A group has N slots. With one copy of each row it serves N rows; with N // k rows of k copies each it is slower and more
accurate, as every row is read in several slots, and from less of a crowd (MUX-PLM, "ensembling"; MIMONets, "dynamic
inference").
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUPINGS = ("in_order", "random", "length")


def row_order(rows: int, grouping: str, seed: int | None = None, lengths: Tensor | None = None) -> Tensor:
    """The order in which rows are put into groups, (B) indices on the CPU.

    Args:
        grouping: "in_order", as they come; "random", drawn with ``seed`` (torch's default generator if None); or
            "length", rows of like length together, so that groups hold less padding.
        lengths: (B), for "length".

    Raises:
        ValueError: unknown grouping, or no lengths to group by.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping is {grouping!r}, expected one of {', '.join(map(repr, GROUPINGS))}")
    if grouping == "in_order":
        return torch.arange(rows)
    if grouping == "random":
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randperm(rows, generator=generator)
    if lengths is None:
        raise ValueError("grouping is 'length', which needs an attention_mask to tell lengths from")
    return torch.argsort(lengths.cpu(), descending=True, stable=True)


def check_copies(copies: int, num_instances: int) -> None:
    """Raises ValueError for copies that are not from 1 to N."""
    if isinstance(copies, bool) or not isinstance(copies, int) or not 1 <= copies <= num_instances:
        if num_instances == 1:
            raise ValueError(f"copies is {copies!r}, expected 1: the model puts no rows together")
        raise ValueError(f"copies is {copies!r}, expected an integer from 1 to num_instances = {num_instances}")


def group_rows(order: Tensor, num_instances: int, copies: int = 1) -> Tensor:
    """The row in every slot, (G, N): groups of N // copies rows of ``order``, each in ``copies`` slots or more, where N
    is no multiple and where the last group is short.

    Raises:
        ValueError: copies is not from 1 to N.
    """
    check_copies(copies, num_instances)
    distinct = num_instances // copies
    slots = torch.arange(num_instances)
    return (
        torch.stack([part[slots % len(part)] for part in order.split(distinct)])
        if len(order)
        else order.new_empty((0, num_instances))
    )


def average_slots(values: Tensor, slots: Tensor, rows: int) -> Tensor:
    """values (G * N, ...) of the slots, slots (G, N) -> (rows, ...): the mean over the slots of each row."""
    index = slots.flatten().to(values.device)
    total = values.new_zeros((rows, *values.shape[1:])).index_add_(0, index, values)
    count = torch.bincount(index, minlength=rows).clamp(min=1).to(values.dtype)
    return total / count.view(-1, *[1] * (values.dim() - 1))
