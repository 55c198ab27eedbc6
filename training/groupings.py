"""Groupings drawn by chance, for models whose answers depend on who shares a group."""

from __future__ import annotations

import numpy as np

from fastmux.passes.engine import Engine


def shuffled_plan(engine: Engine, lengths: np.ndarray, *seed: int) -> list[np.ndarray]:
    """The engine's passes with other groups: of rows of like length, chance says which come together."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[batch] for batch in engine.plan(lengths[order])]
