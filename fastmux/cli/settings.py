"""Settings as options: each field of a dataclass becomes an option, and its description the option's help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

import fastmux
from fastmux.cli.parser import OneOf, Parser, Typed, WrongArgumentError
from fastmux.settings import descriptions
from fastmux.tables.kinds import INPUT_FORMATS

MODEL_HELP = "A name on the Hugging Face hub, or a folder, with its tokenizer."


def add_text(parser: Parser, what: str, required: bool = False) -> None:
    """Add ``--text``, and the options that say how its files are read.

    Args:
        what: What is done with the files, for the help.
    """
    parser.add_argument(
        "--text",
        nargs="+",
        required=required,
        metavar="FILE",
        help=f"{what}. They end in {', '.join(INPUT_FORMATS)} (a row a line), perhaps with .gz behind it.",
    )
    parser.add_argument("--column", help="The column of the text. By default text, sentence or the only one.")
    parser.add_argument("--pair_column", help="The column of the second text of a pair.")
    parser.add_argument(
        "--input_format",
        type=OneOf(*dict.fromkeys(INPUT_FORMATS.values())),
        help="The format of all FILEs. By default the endings of their names tell it.",
    )
    parser.also["texts"] = "--text"


def text_rows(options: argparse.Namespace) -> Iterator[str | dict[str, str]]:
    """The rows of ``--text`` as a `fastmux.Labeller` takes them; read when the first one is asked for, as that needs
    torch."""
    for row in fastmux.read_texts(options.text, options.column, options.pair_column, options.input_format):
        yield row if isinstance(row, str) else {"text": row[0], "text_pair": row[1]}


def add_settings(parser: argparse.ArgumentParser, settings: type, names: Collection[str] | None = None) -> None:
    """Add an option for each field of a dataclass, or for those of some names. A field that is False by default becomes
    a switch."""
    described = descriptions(settings)
    for setting in fields(settings):
        if names is not None and setting.name not in names:
            continue
        text = re.sub("``(.+?)``", r"--\1", described.get(setting.name, "")).replace("%", "%%")
        options: dict[str, Any] = {"action": "store_true"}
        if setting.default is not False:
            kind = Typed(setting.metadata["allowed"]) if "allowed" in setting.metadata else str
            options = {"type": kind, "default": setting.default}
            options |= {"nargs": "*"} if str(setting.type).startswith("tuple") else {}
            text += "" if setting.default in (None, "") else " (default: %(default)s)"
        parser.add_argument(f"--{setting.name}", help=text, **options)


def given(options: argparse.Namespace, settings: type) -> Any:
    """Make the settings from the parsed options.

    Raises:
        WrongArgumentError: They do not go together.
    """
    values = {setting.name: getattr(options, setting.name) for setting in fields(settings)}
    try:
        return settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except ValueError as error:
        raise WrongArgumentError(str(error)) from error
