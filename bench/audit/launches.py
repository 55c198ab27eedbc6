"""A call of every kernel of the project, as the library calls it, with the bytes that the call must move at least."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from fastmux.functional._folded_head import folded_head
from fastmux.functional.walsh_hadamard_mux import kernel_factors
from fastmux.kernels import embedding_mux, hadamard_mux, pair_norm, pair_norm_head, walsh_hadamard_mux

ROWS = 4096  # of every embedding table
LABELS = (9, 64)  # of a head


@dataclass
class Call:
    """A launcher in a module of `fastmux.kernels`, its arguments, and the bytes that it must move."""

    module: ModuleType
    launcher: str
    arguments: tuple
    minimal_bytes: int


def calls(dtype: torch.dtype, width: int, groups: int, instances: int, length: int) -> list[Call]:
    """One call for each variant of a kernel's arguments that compiles differently."""
    g, n, l, d, s = groups, instances, length, width, dtype.itemsize
    x, y = torch.ones(g, n, l, d, dtype=dtype), torch.ones(g, l, d, dtype=dtype)
    v, p, row = torch.ones(n, d, dtype=dtype), torch.ones(g, n, d, dtype=dtype), torch.ones(d, dtype=dtype)
    all_x, all_y, all_p = s * x.numel(), s * y.numel(), s * p.numel()

    signs = torch.ones(n, d, dtype=torch.int8)
    with torch.device("cpu"):  # also where the others are on no device, but meta
        factors = [kernel_factors(d, transpose, dtype, torch.device("cpu")) for transpose in (False, True)]
    listed = [
        (hadamard_mux, "hadamard_mux_forward", (x, v, 0.25), all_x + all_y),
        (hadamard_mux, "hadamard_mux_dx", (y, v, 0.25, dtype), all_y + all_x),
        (hadamard_mux, "hadamard_mux_dv", (y, x, 0.25, dtype), all_y + all_x),
        (walsh_hadamard_mux, "walsh_hadamard_mux_forward", (x, signs, signs, 0.5, *factors[0]), all_x + all_y),
        (walsh_hadamard_mux, "walsh_hadamard_mux_dx", (y, signs, signs, 0.5, dtype, *factors[1]), all_y + all_x),
    ]

    # Ids are drawn so that rows come from everywhere in the table.
    table = torch.ones(ROWS, d, dtype=dtype)
    ids = torch.randint(0, ROWS, (g, n, l), generator=torch.Generator().manual_seed(0))
    types, shared, none = ids % 2, torch.arange(l), torch.zeros(l, dtype=torch.long)
    norm, seed, everything = (1e-12, 0.25), 2**40 + 3, [True] * 6
    # As BERT is given (positions and types shared by all rows), with ids of each row's own, and words alone.
    bert = (ids, shared, none, table, table, table[:2], row, row, v)
    own = (ids, (ids + 1) % ROWS, types, table, table.clone(), table[:2], row, row, v)
    words = (ids, None, None, table, *[None] * 4, v)
    kept = (*bert[:-1], None)
    all_ids, rows = 8 * ids.numel(), 4 * x.numel()  # rows: those of the accumulator
    forward, backward = "embedding_mux_forward", "embedding_mux_backward"
    listed += [
        (embedding_mux, forward, (bert, (*norm, 0.0, 0)), all_x + all_y + all_ids),
        (embedding_mux, forward, (own, (*norm, 0.1, seed)), 2 * all_x + all_y + 3 * all_ids),
        (embedding_mux, forward, (words, (*norm, 0.0, 0)), all_x + all_y + all_ids),
        (embedding_mux, forward, (kept, (*norm, 0.1, seed)), 2 * all_x + all_ids),
        (
            embedding_mux,
            backward,
            (y, bert, (*norm, 0.1, seed), 0, -1, everything, False),
            all_x + all_y + all_ids + rows,
        ),
        (
            embedding_mux,
            backward,
            (y, bert, (*norm, 0.1, seed), 0, -1, everything, True),
            all_x + all_y + all_ids + rows,
        ),
        (
            embedding_mux,
            backward,
            (y, own, (*norm, 0.0, 0), 0, 1, everything, False),
            2 * (all_x + rows) + all_y + 3 * all_ids,
        ),
        (
            embedding_mux,
            backward,
            (y, words, (*norm, 0.0, 0), 0, -1, [False] * 5 + [True], False),
            all_x + all_y + all_ids,
        ),
        (
            embedding_mux,
            backward,
            (x, kept, (*norm, 0.1, seed), 0, -1, [True] * 5 + [False], False),
            2 * all_x + all_ids + rows,
        ),
    ]

    drawn = torch.randint(0, n, (g, l), generator=torch.Generator().manual_seed(0))
    all_drawn = 8 * drawn.numel()
    forward, backward = "pair_norm_forward", "pair_norm_backward"
    listed += [
        (pair_norm, forward, (y, p, None, row, row, 1e-12), all_y + all_p + all_x),
        (pair_norm, forward, (y, p, drawn, row, row, 1e-12), 2 * all_y + all_p + all_drawn),
        (pair_norm, forward, (y, p, None, row, row, 1e-12, True), all_y + all_p + all_x),
        (pair_norm, backward, (x, y, p, None, row, 1e-12, True, True), all_x + 2 * (all_y + all_p)),
        (pair_norm, backward, (y.clone(), y, p, drawn, row, 1e-12, True, True), 3 * all_y + all_p + all_drawn),
        (pair_norm, backward, (x, y, p, None, row, 1e-12, True, True, True), all_x + 2 * (all_y + all_p)),
    ]

    statistics = torch.ones(g, n, l), torch.ones(g, n, l)
    forward, backward = "pair_norm_head_forward", "pair_norm_head_backward"
    for labels in LABELS:
        head, bias = torch.ones(labels, d, dtype=dtype), torch.ones(labels, dtype=dtype)
        logits = torch.ones(g, n, l, labels, dtype=dtype)
        inputs, all_logits, all_head = (y, p, row, row, head, bias), s * logits.numel(), s * head.numel()
        folded, shift = folded_head(*inputs)
        minimum = all_y + all_p + all_head + all_logits
        all_saved = 4 * (labels + 2) * g * n * l
        saved = (logits, torch.ones(g, n, l, labels), *statistics, *inputs)
        listed += [
            (pair_norm_head, forward, (y, p, folded, shift, 1e-12, False, False), minimum),
            (pair_norm_head, forward, (y, p, folded, shift, 1e-12, True, True), minimum + all_saved),
        ]
        # Of the parameters' gradients one partial sum is left, in the accumulator's dtype.
        minimum += all_y + all_p + all_saved + 4 * head.numel()
        listed += [
            (pair_norm_head, backward, (*saved, product, True, True, folded), minimum) for product in (False, True)
        ]
    return [Call(*call) for call in listed]
