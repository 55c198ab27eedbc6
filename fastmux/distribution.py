"""What fastmux is called where packages are installed from: the name `fastmux` is another project's there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

#: Of the distribution; what is imported, and the command, is `fastmux`. setup.py reads this line as text.
NAME = "fastmux-transformers"


def install_line(extra: str) -> str:
    """The command that adds an extra to an installed fastmux; what is installed already, pip asks no index for.

    Example:
        >>> from fastmux.distribution import install_line
        >>> install_line("serve")
        "pip install 'fastmux-transformers[serve]'"
    """
    return f"pip install '{NAME}[{extra}]'"


class MissingExtraError(ImportError):
    """A package that an extra installs is not there; says how to add it."""


@contextlib.contextmanager
def of_extra(extra: str, what: str) -> Iterator[None]:
    """Imports of packages that an extra installs.

    Raises:
        MissingExtraError: One of them is not installed, which ``what`` needs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "fastmux":
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; {install_line(extra)} adds what {what} needs"
        ) from error
