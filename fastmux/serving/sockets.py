"""Bind the sockets of a server before its model is loaded, so that a wrong host or port is reported at once."""

from __future__ import annotations

import errno
import socket

_PROBLEMS = {
    errno.EADDRINUSE: "port is {port}, on which another program listens at {host}; expected a free one, or 0 for any",
    errno.EACCES: "port is {port}, which this process may not use; expected one of at least 1024",
    errno.EADDRNOTAVAIL: (
        "host is {host!r}, which is no address of this machine; 127.0.0.1 is reached from this machine alone, 0.0.0.0 "
        "from others as well"
    ),
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a socket for each address of the host. Until they listen, clients that connect are refused.

    Raises:
        ValueError: The host is unknown or another machine's, or the port is in use or reserved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host is {host!r}, for which no address is known") from error
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # IPv4 has a socket of its own
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # All sockets get the port of the first one.
            one.bind((address[0], port or (bound[0].getsockname()[1] if len(bound) > 1 else 0), *address[2:]))
    except OSError as error:
        for one in bound:
            one.close()
        raise problem(error, host, port) from error
    return bound


def problem(error: OSError, host: str, port: int) -> Exception:
    """A ValueError that says what is wrong with the host or the port; the error itself if it is something else."""
    known = _PROBLEMS.get(error.errno or 0)
    return error if known is None else ValueError(known.format(host=host, port=port))
