"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

#: A cell of a table: a format string for the values of a row, or a function that writes the cell.
Cell = str | Callable[[Mapping], str]


def number(value: float | None, sign: str = "") -> str:
    """A score, or a difference with ``sign`` "+". Small numbers have four digits, large ones none; None is a dash."""
    if value is None:
        return "-"
    return f"{value:{sign}.4f}" if abs(value) < 100 else f"{value:{sign},.0f}"


def measured(mean: float, std: float) -> str:
    """A mean with its standard deviation, if that is not 0."""
    return number(mean) + (f" ± {number(std)}" if std else "")


def score(found: dict | None) -> str:
    """A `fastmux.training.run_result.Score`, as JSON has it."""
    return "-" if found is None else measured(found["mean"], found["std"])


def interval(mean: float, low: float, high: float) -> str:
    """A difference with the ends of its interval."""
    return f"{number(mean, '+')} ({number(low, '+')} to {number(high, '+')})"


def table(rows: Iterable[Mapping], columns: Mapping[str, Cell]) -> str:
    """A table with a line for each row.

    Args:
        rows: What was recorded, one mapping a line.
        columns: For each heading, the cell below it. A cell is a dash if a value that it shows is missing or None.

    Example:
        >>> from fastmux.training.formatting import table
        >>> print(table([{"name": "index", "ratio": 2.0}, {"name": "key"}], {"": "`{name}`", "x plain": "{ratio:.2f}"}))
        |  | x plain |
        | --- | ---: |
        | `index` | 2.00 |
        | `key` | - |
    """

    def written(cell: Cell, row: Mapping) -> str:
        if not isinstance(cell, str):
            return cell(row)
        try:
            return cell.format_map({name: value for name, value in row.items() if value is not None})
        except (KeyError, TypeError):  # None within a value has no format
            return "-"

    return markdown(list(columns), [[written(cell, row) for cell in columns.values()] for row in rows])


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. All columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def for_terminal(text: str) -> str:
    """Paragraphs for the terminal. The columns of Markdown tables are padded to one width."""
    return "\n\n".join(_padded(part) if part.startswith("|") else part for part in text.split("\n\n"))


def _padded(table: str) -> str:
    rows = [line[2:-2].split(" | ") for line in table.splitlines()]
    widths = [max(map(len, column)) for column in zip(rows[0], *rows[2:], strict=True)]
    rows[1] = ["-" * width for width in widths]
    lines = [[c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)] for row in rows]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *cells]) for row, cells in zip(rows, lines, strict=True))
