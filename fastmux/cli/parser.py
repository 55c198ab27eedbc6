"""Parse a command line; a mistake gets one sentence that says what is wrong and what was probably meant."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastmux import settings
from fastmux.cli.wording import near
from fastmux.settings import Number


class Typed:
    """The argparse type of an option whose setting allows certain values."""

    def __init__(self, allowed: Number | settings.OneOf):
        self.allowed = allowed
        self.words: tuple[str, ...] = ()
        self.metavar = "FLOAT"
        if isinstance(allowed, settings.OneOf):
            self.words, self.metavar = allowed.words, "{" + ",".join(allowed.words) + "}"
        elif allowed.whole:
            self.metavar = "INT"

    def __call__(self, text: str) -> Any:
        with contextlib.suppress(ValueError):
            if (value := self.allowed.parse(text)) in self.allowed:
                return value
        raise argparse.ArgumentTypeError(f"is {text!r}, expected {self.allowed}{near(text, self.words)}")


def integer(least: int, most: float = math.inf) -> Typed:
    """The type of an option that takes integers."""
    return Typed(Number(True, least, most))


def number(least: float, most: float = math.inf, *, above: bool = False) -> Typed:
    """The type of an option that takes numbers."""
    return Typed(Number(False, least, most, above))


def OneOf(*words: str) -> Typed:
    """The type of an option that takes one of some words."""
    return Typed(settings.OneOf(words))


class WrongArgumentError(ValueError):
    """An argument, or several together, that no command takes."""


class Parser(argparse.ArgumentParser):
    """An argument parser that takes only whole names of options, keeps the layout of its texts, and reports errors in
    one line."""

    def __init__(self, *args, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **options)
        #: Arguments of the library whose options have other names.
        self.also: dict[str, str] = {}

    def add_argument(self, *names, **options) -> argparse.Action:
        """Add an argument as argparse does; a `Typed` names its value in the help."""
        if isinstance(kind := options.get("type"), Typed):
            options.setdefault("metavar", kind.metavar)
        return super().add_argument(*names, **options)

    @property
    def options(self) -> dict[str, str]:
        """For each argument of the library, the option that stands for it."""
        named = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        return named | self.also

    def check_known(self, typed: Sequence[str]) -> None:
        """Refuse an unknown option, before argparse reports what is missing."""
        for word in typed:
            if word == "--":
                return
            name = word.partition("=")[0]
            if re.match(r"--?[A-Za-z]", name) and name not in self._option_string_actions:
                self.error(f"there is no option {name}{near(name, self.options.values())}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        if found := re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL):
            what, problem = found.groups()
            problem = re.sub(r"^expected (?:one|at least one) argument$", "needs a value", problem)
            problem = re.sub(r"^ignored explicit argument (.*)$", r"takes no value, got \1", problem)
            message = f"{what.rpartition('/')[2]} {problem}"
        elif found := re.fullmatch(r"the following arguments are required: (.*)", message):
            missing = found[1].split(", ")
            listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
            example = re.search(rf"^ *({re.escape(self.prog)} .*)", self.epilog or "", re.MULTILINE)
            message = f"{listed} {'is' if len(missing) == 1 else 'are'} missing"
            message += f"; for example: {example[1]}" if example else ""
        print(f"{self.prog}: {message} (--help says more)", file=sys.stderr)
        sys.exit(2)
