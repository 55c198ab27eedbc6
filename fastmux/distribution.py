"""What fastmux is called where packages are installed from: the name `fastmux` is another project's there."""

from __future__ import annotations

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
