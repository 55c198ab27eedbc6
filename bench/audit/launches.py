"""A call of every kernel of the project, as the library calls it, with the bytes that the call must move at least."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from fastmux.functional._folded_head import folded_head
from fastmux.functional.walsh_hadamard_mux import kernel_factors
from fastmux.kernels import embedding_mux, hadamard_mux, pair_norm, pair_norm_head, walsh_hadamard_mux

MODULES = (embedding_mux, hadamard_mux, pair_norm, pair_norm_head, walsh_hadamard_mux)
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
    listed: list[Call] = []

    def add(launcher: str, arguments: tuple, minimal_bytes: int) -> None:
        listed.append(Call(_module_of(launcher), launcher, arguments, minimal_bytes))

    add("hadamard_mux_forward", (x, v, 0.25), all_x + all_y)
    add("hadamard_mux_dx", (y, v, 0.25, dtype), all_y + all_x)
    add("hadamard_mux_dv", (y, x, 0.25, dtype), all_y + all_x)

    signs = torch.ones(n, d, dtype=torch.int8)
    with torch.device("cpu"):  # also where the others are on no device, but meta
        factors = [kernel_factors(d, transpose, dtype, torch.device("cpu")) for transpose in (False, True)]
    add("walsh_hadamard_mux_forward", (x, signs, signs, 0.5, *factors[0]), all_x + all_y)
    add("walsh_hadamard_mux_dx", (y, signs, signs, 0.5, dtype, *factors[1]), all_y + all_x)

    # Ids are drawn so that rows come from everywhere in the table.
    table = torch.ones(ROWS, d, dtype=dtype)
    ids = torch.randint(0, ROWS, (g, n, l), generator=torch.Generator().manual_seed(0))
    types, shared, none = ids % 2, torch.arange(l), torch.zeros(l, dtype=torch.long)
    plain, dropped, everything = (1e-12, 0.25, 0.0), (1e-12, 0.25, 0.1), [True] * 6
    seed = torch.tensor(2**40 + 3)
    # As BERT is given (positions and types shared by all rows), with ids of each row's own, and words alone.
    bert = (ids, shared, none, table, table, table[:2], row, row, v, None)
    own = (ids, (ids + 1) % ROWS, types, table, table.clone(), table[:2], row, row, v, None)
    words = (ids, None, None, table, *[None] * 4, v, None)
    kept = (*bert[:-2], None, seed)
    bert_seeded, own_seeded = (*bert[:-1], seed), (*own[:-1], seed)
    all_ids, rows = 8 * ids.numel(), 4 * x.numel()  # rows: those of the accumulator
    once, back = all_x + all_y + all_ids, "embedding_mux_backward"
    add("embedding_mux_forward", (bert, plain), once)
    add("embedding_mux_forward", (own_seeded, dropped), 2 * all_x + all_y + 3 * all_ids)
    add("embedding_mux_forward", (words, plain), once)
    add("embedding_mux_forward", (kept, dropped), 2 * all_x + all_ids)
    for product in (False, True):
        add(back, (y, bert_seeded, dropped, 0, -1, everything, product), once + rows)
    add(back, (y, own, plain, 0, 1, everything, False), 2 * (all_x + rows) + all_y + 3 * all_ids)
    add(back, (y, words, plain, 0, -1, [False] * 5 + [True], False), once)
    add(back, (x, kept, dropped, 0, -1, [True] * 5 + [False], False), 2 * all_x + all_ids + rows)

    drawn = torch.randint(0, n, (g, l), generator=torch.Generator().manual_seed(0))
    all_drawn, forward, back = 8 * drawn.numel(), "pair_norm_forward", "pair_norm_backward"
    add(forward, (y, p, None, row, row, 1e-12), all_y + all_p + all_x)
    add(forward, (y, p, drawn, row, row, 1e-12), 2 * all_y + all_p + all_drawn)
    add(forward, (y, p, None, row, row, 1e-12, True), all_y + all_p + all_x)
    add(back, (x, y, p, None, row, 1e-12, True, True), all_x + 2 * (all_y + all_p))
    add(back, (y.clone(), y, p, drawn, row, 1e-12, True, True), 3 * all_y + all_p + all_drawn)
    add(back, (x, y, p, None, row, 1e-12, True, True, True), all_x + 2 * (all_y + all_p))

    for labels in LABELS:
        head, bias = torch.ones(labels, d, dtype=dtype), torch.ones(labels, dtype=dtype)
        logits, single = torch.ones(g, n, l, labels, dtype=dtype), torch.ones(g, n, l)
        inputs, all_head, all_saved = (y, p, row, row, head, bias), head.numel(), 4 * (labels + 2) * g * n * l
        folded, shift = folded_head(*inputs)
        minimum = all_y + all_p + s * (all_head + logits.numel())
        add("pair_norm_head_forward", (y, p, folded, shift, 1e-12, False, False), minimum)
        add("pair_norm_head_forward", (y, p, folded, shift, 1e-12, True, True), minimum + all_saved)
        # Of the parameters' gradients one partial sum is left, in the accumulator's dtype.
        minimum += all_y + all_p + all_saved + 4 * all_head
        saved = (logits, torch.ones(g, n, l, labels), single, single.clone(), *inputs)
        for product in (False, True):
            add("pair_norm_head_backward", (*saved, product, True, True, folded), minimum)
    return listed


def _module_of(launcher: str) -> ModuleType:
    """The module of `fastmux.kernels` that has the launcher."""
    return next(module for module in MODULES if hasattr(module, launcher))
