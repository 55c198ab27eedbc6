"""How many rows are labelled and written together: seconds of work, so that little is done again after a kill.

Which rows share a group depends on where shards end, and a run that is resumed must end in the same bytes. Sizes are
therefore computed from the model and the first rows, not from a clock.
"""

from __future__ import annotations

from collections.abc import Callable

from fastmux.labelling.preparing import Preparation
from fastmux.passes.engine import Engine
from fastmux.tables.opening import Source

#: Multiplications of a shard on a CPU: some ten seconds of two cores.
_PRODUCTS = 5e11
#: Of few rows many groups would be padded to the length of their longest.
_LEAST_GROUPS = 128
_MOST_ROWS, _ROWS_ELSEWHERE = 32768, 65536
#: The first shard is a part of a full one, and each one after it twice as large: the first rows are there at once.
_FIRST = 8
#: Rows from the start of an input that tell how long rows are.
_SAMPLE = 100


def full_shard(engine: Engine, source: Source, preparation: Preparation, on_cpu: bool) -> int:
    """The rows of a full shard.

    Args:
        preparation: Its tokenizer is started.
        on_cpu: Where the model runs.
    """
    if not on_cpu:
        return _ROWS_ELSEWHERE
    layout = engine.layout
    raw = next(source.shards(lambda index: _SAMPLE))
    lengths = preparation(preparation.needed(raw)).tokens.lengths
    positions = max(layout.least, float(lengths.mean()) if len(lengths) else 1.0) + layout.prefix
    products = engine.runtime.weights * positions * layout.sequences / layout.rows
    rows = int(_PRODUCTS / max(1.0, products))
    return max(min(_MOST_ROWS, _LEAST_GROUPS * layout.rows), min(_MOST_ROWS, rows // layout.rows * layout.rows))


def growing(full: int, together: int) -> Callable[[int], int]:
    """The rows of shard number 0, 1, ...: few at first, then full ones.

    Args:
        full: The rows of a full shard.
        together: Rows that share a group; a first shard has several groups of them.

    Example:
        >>> from fastmux.labelling.shard_sizes import growing
        >>> sizes = growing(1000, together=4)
        >>> [sizes(index) for index in range(5)]
        [512, 1000, 1000, 1000, 1000]
    """
    first = min(full, max(full // _FIRST, _LEAST_GROUPS * together))
    return lambda index: min(full, first << min(index, 30))
