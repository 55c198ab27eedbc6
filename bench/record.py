"""What programs of bench/ share: their first options, the file that they write, and tables of what is in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from fastmux.files import write_json
from fastmux.training.formatting import markdown

#: A cell of a table: a format string for the values of a row, or a function that writes the cell.
Cell = str | Callable[[dict], str]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a docstring as it is, and says the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default in ([], argparse.SUPPRESS):
            return action.help or ""
        said = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        said = "no limit" if said == "inf" else said
        return f"{action.help or ''} Default: {said.replace('%', '%%')}.".strip()


def options_of(
    description: str, output: str = "The JSON file to write. Default: one in bench/results/<device>.", **more
) -> argparse.ArgumentParser:
    """A parser whose help is the program's docstring, with the option ``--output``, whose help is ``output``."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help, **more)
    made.add_argument("--output", type=Path, help=output)
    return made


def positive(text: str) -> int:
    """Reads an integer of at least 1 from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected an integer of at least 1")
    return value


def finish(result: dict, section: Callable[[dict], Iterator[str]], output: Path | None) -> None:
    """Writes a result, and prints its section of docs/results.md."""
    if output:
        write_json(output, result)
    print("\n" + "\n\n".join(section(result)) + (f"\n\nwritten to {output}" if output else ""), flush=True)


def table(rows: Iterable[Mapping], columns: Mapping[str, Cell]) -> str:
    """A table with a line for each row.

    Args:
        rows: What was recorded, one mapping a line.
        columns: For each heading, the cell below it. A cell is a dash if a value that it shows is missing or None.

    Example:
        >>> from bench.record import table
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
            return cell.format_map(row)
        except (KeyError, TypeError):  # None has no format
            return "-"

    return markdown(list(columns), [[written(cell, row) for cell in columns.values()] for row in rows])
