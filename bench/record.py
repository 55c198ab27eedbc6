"""What programs of bench/ share: their first options, and the file that they write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from fastmux.files import write_json


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
