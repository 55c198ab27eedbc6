"""Choose which rows share a group, and which groups share a pass: rows of like length, at the least cost.

The rows are sorted by length, N neighbours make a group, and neighbouring groups make a pass. Every group of a pass is
padded to the longest row of the pass, so that long passes cost padding and short ones cost overhead. `plan_passes`
finds the cuts with the least sum of both, by dynamic programming over the sorted groups. Groups that are packed, end to
end in one sequence, are padded to no other group: their passes are as full as may be.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

#: The overhead of a pass, as the number of positions that take as long. On a CPU core, with six layers of width 384, it
#: was measured as 33 to 46. For a GPU, where kernel launches take the time of many positions, it is an estimate.
PASS_TOKENS, PASS_TOKENS_GPU = 32, 1024
#: At least this share of a plan's positions must be those that its groups need by themselves. Otherwise a smaller
#: overhead is assumed, down to the second number, as launches can be captured in a graph but padding stays.
_LEAST_USED, _LEAST_PASS_TOKENS = 0.95, 16
#: The number of steps of the search for that overhead.
_HALVINGS = 5
#: About how many cuts between groups of one length are considered, which limits the time of planning.
_POSSIBLE_CUTS = 1024


@dataclass(frozen=True)
class Layout:
    """How a model lays rows out as positions of its encoder.

    Args:
        rows: The number of different rows that share a group: N, or fewer if rows take several slots.
        sequences: The sequences of positions that the encoder runs for a group: 1 of a T-MUX, N of a model that joins
            rows only in its deeper layers.
        prefix: The positions before each sequence.
        least: The positions of a row, at least: a model that attends to padding answers by how much there is.
        packed: Whether the groups of a pass lie end to end, each as long as its own longest row.
    """

    rows: int = 1
    sequences: int = 1
    prefix: int = 0
    least: int = 1
    packed: bool = False


def plan_passes(
    lengths: np.ndarray, batch_tokens: int, layout: Layout | None = None, pass_tokens: int = PASS_TOKENS
) -> list[np.ndarray]:
    """The rows of each pass, the longest first.

    Args:
        lengths: The number of tokens of each row, (rows).
        batch_tokens: The positions of a pass, padding counted, at most; a single group may have more.
        layout: How the model lays out groups; a plain encoder's if None.
        pass_tokens: The overhead of a pass, in positions. If the plan would have too much padding, a smaller one is
            assumed. Packed groups need none.

    Returns:
        Row numbers. Every pass but the last has a multiple of ``layout.rows``, whose neighbours make up the groups.

    Example:
        >>> import numpy as np
        >>> from fastmux.passes.plan import Layout, plan_passes
        >>> plan_passes(np.array([3, 9, 4, 8]), 18, Layout(rows=2), pass_tokens=1)
        [array([1, 3]), array([2, 0])]
    """
    layout = layout or Layout()
    lengths = np.maximum(layout.least, lengths)
    order = np.argsort(-lengths, kind="stable")
    # The positions of each group, padded to its longest row, which is its first.
    groups = layout.sequences * (lengths[order[:: layout.rows]] + layout.prefix)
    cuts = _fullest_cuts(groups, batch_tokens) if layout.packed else _padded_cuts(groups, batch_tokens, pass_tokens)
    return [order[a * layout.rows : b * layout.rows] for a, b in itertools.pairwise(cuts)]


def _fullest_cuts(groups: np.ndarray, batch_tokens: int) -> list[int]:
    """The numbers of groups after which passes end, from 0: the fewest passes of groups that are not padded."""
    until, cuts = np.concatenate([[0], np.cumsum(groups)]), [0]
    while cuts[-1] < len(groups):
        full = int(np.searchsorted(until, until[cuts[-1]] + batch_tokens, side="right")) - 1
        cuts.append(max(full, cuts[-1] + 1))
    return cuts


def _padded_cuts(groups: np.ndarray, batch_tokens: int, pass_tokens: int) -> np.ndarray:
    """The numbers of groups after which passes end, from 0: the cheapest passes with little enough padding."""
    possible = _possible_cuts(groups, batch_tokens)
    cuts = _cheapest_cuts(groups, possible, batch_tokens, pass_tokens)
    if pass_tokens > _LEAST_PASS_TOKENS and not _is_dense(groups, cuts):
        # Find the fewest passes with little enough padding: the largest overhead for which the plan is dense.
        low, high = np.log(_LEAST_PASS_TOKENS), np.log(pass_tokens)
        cuts = _cheapest_cuts(groups, possible, batch_tokens, _LEAST_PASS_TOKENS)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = _cheapest_cuts(groups, possible, batch_tokens, np.exp(middle))
            if _is_dense(groups, found):
                low, cuts = middle, found
            else:
                high = middle
    return cuts


def _possible_cuts(groups: np.ndarray, batch_tokens: int) -> np.ndarray:
    """The numbers of groups after which a pass may end, in order, including 0 and all.

    Cuts pay where the length changes. There are some more between groups of one length, at most a full pass apart.
    """
    count = len(groups)
    step = -(-count // _POSSIBLE_CUTS)
    changes = np.flatnonzero(np.diff(groups)) + 1
    edges = np.concatenate([[0], changes, [count]])
    cuts = [
        np.arange(a, b, min(step, max(1, batch_tokens // groups[a]))) for a, b in itertools.pairwise(edges) if a < b
    ]
    return np.concatenate([*cuts, [count]]).astype(np.int64)


def _is_dense(groups: np.ndarray, cuts: np.ndarray) -> bool:
    """Whether a plan has little padding in addition to that of each group by itself."""
    return bool(groups.sum() >= _LEAST_USED * np.sum(groups[cuts[:-1]] * np.diff(cuts)))


def _cheapest_cuts(groups: np.ndarray, possible: np.ndarray, batch_tokens: int, pass_tokens: float) -> np.ndarray:
    """The numbers of groups after which passes end, from 0, with the least total cost of positions and passes."""
    last = len(possible) - 1
    cost, before = np.full(last + 1, np.inf), np.zeros(last + 1, np.int64)
    cost[0] = 0
    ends = np.searchsorted(possible, possible[:-1] + np.maximum(1, batch_tokens // groups[possible[:-1]]), side="right")
    for begin in range(last):
        longest, some = groups[possible[begin]], slice(begin + 1, max(int(ends[begin]), begin + 2))
        found = cost[begin] + pass_tokens + (possible[some] - possible[begin]) * longest
        better = found <= cost[some]  # of equally cheap plans, the one with a short last pass
        cost[some][better] = found[better]
        before[some][better] = begin
    cuts = [last]
    while cuts[-1]:
        cuts.append(int(before[cuts[-1]]))
    return possible[cuts[::-1]]
