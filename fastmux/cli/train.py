"""``fastmux train``: the program ``training/train.py``, for whoever has no clone."""

from __future__ import annotations

import argparse
import sys

from fastmux.cli.parser import Parser


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the command to the list of commands; its arguments are the program's."""
    return commands.add_parser(
        "train", help="train plain and multiplexed classifiers on labelled rows, and compare them"
    )


def run(options: argparse.Namespace) -> None:
    """Run the program with the arguments of the command line."""
    from fastmux.training.programs import run_program
    from fastmux.training.train import main

    sys.argv[0] = "fastmux train"  # as the program calls itself
    run_program(lambda: main(options.arguments))
