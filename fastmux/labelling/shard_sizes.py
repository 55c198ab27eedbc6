"""How many rows a shard has: some seconds of work, so that a kill loses little.

Which rows share a group depends on where shards end, and a resumed run must end in the same bytes. Sizes are therefore
computed from the model and the first rows, not from a clock.
"""

from __future__ import annotations

from collections.abc import Callable

from fastmux.labelling.preparing import Preparation
from fastmux.passes.engine import Engine
from fastmux.passes.tokens import Tokens
from fastmux.tables.opening import Source

#: The multiplications of a full shard on a CPU: about ten seconds of two cores.
_PRODUCTS = 5e11
#: The fewest groups of a full shard, and of a first one that is not full: with fewer, rows of different lengths would
#: share groups and be padded.
_LEAST_GROUPS, _FIRST_GROUPS = 64, 512
_MOST_ROWS, _ROWS_ELSEWHERE = 32768, 65536
#: The first shard is this fraction of a full one, and each further one twice as large, for early first rows.
_FIRST = 8
#: How many rows at the start of an input tell how long rows are.
_SAMPLE = 100


def full_shard(engine: Engine, source: Source, preparation: Preparation, on_cpu: bool) -> int:
    """The number of rows of a full shard.

    Args:
        engine: Runs the model.
        source: The input.
        preparation: Its tokenizer is started.
        on_cpu: Whether the model runs on a CPU.
    """
    if not on_cpu:
        return _ROWS_ELSEWHERE
    layout = engine.layout
    lengths = first_tokens(source, preparation, _SAMPLE).lengths
    positions = max(layout.least, float(lengths.mean()) if len(lengths) else 1.0) + layout.prefix
    products = engine.runtime.weights * positions * layout.sequences / layout.rows
    rows = int(_PRODUCTS / max(1.0, products))
    return max(min(_MOST_ROWS, _LEAST_GROUPS * layout.rows), min(_MOST_ROWS, rows // layout.rows * layout.rows))


def first_tokens(source: Source, preparation: Preparation, rows: int) -> Tokens:
    """The tokens of the first rows of an input, of those that can be labelled. The tokenizer is started."""
    raw = next(source.shards(lambda index: rows))
    return preparation(preparation.needed(raw)).tokens


def growing(full: int, together: int) -> Callable[[int], int]:
    """The number of rows of shard 0, 1, ...: small at first, then full.

    Args:
        full: The number of rows of a full shard.
        together: How many rows share a group; the first shard has 512 groups, or is full.

    Example:
        >>> from fastmux.labelling.shard_sizes import growing
        >>> sizes = growing(10_000, together=4)
        >>> [sizes(index) for index in range(5)]
        [2048, 4096, 8192, 10000, 10000]
    """
    first = min(full, max(full // _FIRST, _FIRST_GROUPS * together))
    return lambda index: min(full, first << min(index, 30))
