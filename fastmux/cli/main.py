"""``fastmux COMMAND ...``: one module a command, one line here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from fastmux.cli import convert, predict, serve

#: Name -> (adds its arguments to a parser, runs with what was given).
COMMANDS: dict[str, tuple[Callable[[argparse._SubParsersAction], None], Callable[[argparse.Namespace], None]]] = {
    "convert": (convert.add_parser, convert.run),
    "predict": (predict.add_parser, predict.run),
    "serve": (serve.add_parser, serve.run),
}


def main(argv: list[str] | None = None) -> None:
    """Run a command; an error of the input, or of the disk, is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="fastmux", description="Data multiplexing: one pass serves N inputs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_parser, _ in COMMANDS.values():
        add_parser(commands)
    options = parser.parse_args(argv)
    try:
        COMMANDS[options.command][1](options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"fastmux {options.command}: {error}")


if __name__ == "__main__":
    main()
