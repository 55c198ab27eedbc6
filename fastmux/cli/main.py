"""``fastmux COMMAND ...``: each command has a module, and a line here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import fastmux
from fastmux.cli import calibrate, convert, embed, env, export, predict, search, serve, train
from fastmux.cli.parser import Parser, WrongArgumentError
from fastmux.cli.wording import near, with_dashes
from fastmux.distribution import MissingExtraError

#: Name -> (a function that adds the command's arguments to a parser, a function that runs the command).
COMMANDS: dict[str, tuple[Callable[[argparse._SubParsersAction], Parser], Callable[[argparse.Namespace], None]]] = {
    "search": (search.add_parser, search.run),
    "convert": (convert.add_parser, convert.run),
    "calibrate": (calibrate.add_parser, calibrate.run),
    "export": (export.add_parser, export.run),
    "predict": (predict.add_parser, predict.run),
    "embed": (embed.add_parser, embed.run),
    "serve": (serve.add_parser, serve.run),
    "train": (train.add_parser, train.run),
    "env": (env.add_parser, env.run),
}

DESCRIPTION = """\
Make a trained text encoder several times faster, label files with it, and serve it over HTTP. Several rows, or several
neighbouring positions of a row, share a pass of the transformer."""

EPILOG = """\
a first look:
  fastmux search my-model --text reviews.txt --output_dir faster          # the fastest that answers as it does
  fastmux convert my-model --text reviews.txt --output_dir my-model-2x    # a faster copy, from text without labels
  fastmux predict my-model-2x reviews.csv --output labels.csv             # the rows of a file, with labels
  fastmux embed my-embedder reviews.csv --output vectors.parquet          # a vector for each row
  fastmux serve my-model-2x                                               # answers over HTTP

`fastmux COMMAND --help` says more, with examples. my-model is a name on the Hugging Face hub, or a folder."""


def main(argv: list[str] | None = None) -> None:
    """Run a command. A wrong argument ends it with one line and exit code 2, a problem of the input or the disk with
    one line and exit code 1."""
    typed = sys.argv[1:] if argv is None else argv
    parser, commands = build()
    if not typed:
        parser.print_help(sys.stderr)
        sys.exit(2)
    if not typed[0].startswith("-"):
        if typed[0] not in commands:
            parser.error(
                f"there is no command {typed[0]!r}, expected one of {', '.join(commands)}{near(typed[0], commands)}"
            )
        if typed[0] == "train":  # a program of its own, with a parser of its own
            return train.run(argparse.Namespace(arguments=typed[1:]))
        commands[typed[0]].check_known(typed[1:])
    else:
        parser.check_known(typed[:1])
    options, left = parser.parse_known_args(typed)
    if options.command is None:
        parser.error("COMMAND is missing")
    if left:
        commands[options.command].error(f"{left[0]!r} is one argument too many")
    try:
        COMMANDS[options.command][1](options)
    except WrongArgumentError as error:
        parser = commands[options.command]
        parser.error(with_dashes(str(error), parser.options))
    except (ValueError, OSError, RuntimeError, MissingExtraError) as error:
        sys.exit(f"fastmux {options.command}: {with_dashes(str(error), commands[options.command].options)}")
    except KeyboardInterrupt:
        print(f"fastmux {options.command}: interrupted", file=sys.stderr)
        sys.exit(130)


def build() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and the parser of each command."""
    parser = Parser(prog="fastmux", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"fastmux {fastmux.__version__}")
    added = parser.add_subparsers(dest="command", metavar="COMMAND")
    return parser, {name: add_parser(added) for name, (add_parser, _) in COMMANDS.items()}


if __name__ == "__main__":
    main()
