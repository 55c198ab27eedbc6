"""How figures are written, wherever they are shown: numbers, means with their spread, Markdown tables."""

from __future__ import annotations


def number(value: float | None, sign: str = "") -> str:
    """A score, or a difference with ``sign`` "+": shares have digits, prices none. A dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:{sign}.4f}" if abs(value) < 100 else f"{value:{sign},.0f}"


def measured(mean: float, std: float) -> str:
    """A mean, with its spread where there is one."""
    return number(mean) + (f" ± {number(std)}" if std else "")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, the columns behind the first one aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
