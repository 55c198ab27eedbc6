"""A table for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence


def padded_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines for a terminal: words to the left, figures to the right.

    Example:
        >>> from fastmux.cli.table import padded_table
        >>> print(padded_table([["model", "x faster"], ["original", "1.00"]]))
        model     x faster
        original      1.00
    """
    columns = list(zip(*rows, strict=True))
    cells = []
    for column in columns:
        width = max(map(len, column))
        figures = all(re.fullmatch(r"[\d.]*( to [\d.]+)?", cell) for cell in column[1:])
        cells.append([cell.rjust(width) if figures else cell.ljust(width) for cell in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*cells, strict=True))
