"""Random groupings, for models whose answers depend on the rows of a group."""

from __future__ import annotations

import numpy as np

from fastmux.passes.engine import Engine


def shuffled_plan(engine: Engine, lengths: np.ndarray, *seed: int) -> list[np.ndarray]:
    """The engine's passes with other groups, drawn at random among rows of similar length."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[batch] for batch in engine.plan(lengths[order])]
