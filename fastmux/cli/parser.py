"""What is typed, parsed: one sentence for what is wrong, and what was probably meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastmux.cli.wording import near


def integer(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes integers."""
    limits = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"

    def parsed(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or (least is not None and number < least) or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"is {text!r}, expected an integer{limits}")
        return number

    return parsed


def number(text: str) -> float:
    """The type of an option that takes numbers."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a number") from None


def seconds(text: str) -> float:
    """The type of an option that takes a time, 0 or more."""
    if not 0 <= (found := number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a number of at least 0")
    return found


class OneOf:
    """The type of an option that takes some words."""

    def __init__(self, *allowed: str):
        self.allowed = allowed
        self.metavar = "{" + ",".join(allowed) + "}"

    def __call__(self, text: str) -> str:
        if text not in self.allowed:
            words = ", ".join(map(repr, self.allowed))
            raise argparse.ArgumentTypeError(f"is {text!r}, expected one of {words}{near(text, self.allowed)}")
        return text


class Parser(argparse.ArgumentParser):
    """Options by their whole names, help as it was written, errors in one line."""

    def __init__(self, *args, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **options)
        #: Arguments of the library that options of other names stand for.
        self.also: dict[str, str] = {}

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
