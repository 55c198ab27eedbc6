"""The section of docs/results.md on what `fastmux search` wrote: a ``search.json``, copied below bench/results/."""

from __future__ import annotations

from collections.abc import Iterator

from fastmux.searching.kinds import KINDS
from fastmux.training.formatting import table


def section(result: dict) -> Iterator[str]:
    """The page's section on one search."""
    rows, settings, (header, *lines) = result["rows"], result["settings"], result["table"]
    usual = KINDS[result.get("kind", "rows")].usual
    wanted = (
        f"--speedup {settings['speedup']}" if settings["speedup"] else f"--agreement {settings['agreement'] or usual}"
    )
    yield (
        f"`fastmux search MODEL --text FILE {wanted} --minutes {settings['minutes']:g} --clock {settings['clock']}`: "
        f"{rows['learning']:,} rows to learn from, {rows['choosing']:,} to choose by, {rows['reporting']:,} to report "
        "on. " + result["sentence"]
    )
    names = [name or "mark" for name in header]
    given = [{name: cell.replace("*", "\\*") for name, cell in zip(names, line, strict=True)} for line in lines]
    yield table(given, {name if name != "mark" else " ": "{" + name + "}" for name in names})
