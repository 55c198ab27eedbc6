"""Errors in the words of the command line: the library names an argument ``max_length``, the user typed the option
``--max_length``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

#: Values in quotes, which are left as they are.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`""")
#: An argument of one word is also an English word. It is taken for the argument only at the start of an error, or of a
#: part of one, and before a verb or the like: "the column is empty" is not about the argument ``column``.
_BEGINS = re.compile(r"(?:^|[;:,(]|\bsay with|\bwhich with)$")
_SAID = re.compile(r" (?:is|are|=|gives?|given|takes?|has|needs?|which)\b| =|[,;.)]|$")


def with_dashes(message: str, options: Mapping[str, str]) -> str:
    """Replace the arguments in an error of the library by options; ``options`` has the option of each argument.

    A name with an underscore is always replaced; a name of one word only where it is clearly the argument, as the
    subject of a sentence. Text in quotes and in paths comes from the user and stays.

    Example:
        >>> from fastmux.cli.wording import with_dashes
        >>> options = {"copies": "--copies", "max_length": "--max_length"}
        >>> with_dashes("copies is 0, more than max_length = 3 has; 'max_length' is a column", options)
        "--copies is 0, more than --max_length = 3 has; 'max_length' is a column"
    """
    if not options:
        return message
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    beside = re.compile(rf"(?:^|[\s(])(?:{names})(?:,| and| or)$"), re.compile(rf"(?:,| and| or) (?:{names})\b")
    quoted = [found.span() for found in _QUOTED.finditer(message)]

    def option(found: re.Match) -> str:
        start, end = found.span()
        if any(begin < end and start < stop for begin, stop in quoted):
            return found[0]
        before, after = message[:start].rstrip(" "), message[end:]
        begins = _BEGINS.search(before) or beside[0].search(before)
        said = _SAID.match(after) or beside[1].match(after)
        return options[found[0]] if "_" in found[0] or (begins and said) else found[0]

    return re.sub(rf"(?<![\w./-])(?:{names})(?![\w(/-]|\.\w)", option, message)


def near(given: str, known: Iterable[str]) -> str:
    """``"; did you mean --max_length?"``, or an empty string if no known name is similar."""
    plain = {name.strip("-").replace("-", "_").lower(): name for name in known}
    asked = given.strip("-").replace("-", "_").lower()
    found = difflib.get_close_matches(asked, plain, n=1, cutoff=0.6)
    longer = [name for name in plain if asked and name.startswith(asked)]
    return f"; did you mean {plain[(found or longer)[0]]}?" if found or longer else ""
