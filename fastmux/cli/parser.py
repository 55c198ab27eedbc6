"""What is typed, parsed: one sentence for what is wrong, and what was probably meant."""

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
    """The type of an option, by what a setting may be."""

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


def OneOf(*words: str) -> Typed:
    """The type of an option that takes some words."""
    return Typed(settings.OneOf(words))


class Parser(argparse.ArgumentParser):
    """Options by their whole names, help as it was written, errors in one line."""

    def __init__(self, *args, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **options)
        #: Arguments of the library that options of other names stand for.
        self.also: dict[str, str] = {}

    def add_argument(self, *names, **options) -> argparse.Action:
        """As of argparse; the type says what stands for a value in the help."""
        if isinstance(kind := options.get("type"), Typed):
            options.setdefault("metavar", kind.metavar)
        return super().add_argument(*names, **options)

    @property
    def options(self) -> dict[str, str]:
        """What the library calls an option, and how it is typed."""
        named = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        return named | self.also

    def check_known(self, typed: Sequence[str]) -> None:
        """Refuses, before anything is said to be missing, an option that there is not."""
        for word in typed:
            if word == "--":
                return
            name = word.partition("=")[0]
            if re.match(r"--?[A-Za-z]", name) and name not in self._option_string_actions:
                self.error(f"there is no option {name}{near(name, self.options.values())}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave with exit code 2."""
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
