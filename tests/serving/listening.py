"""Apps on a port of the loopback, in a thread of the tests, for clients that need an address."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of an app that is ready, such as "127.0.0.1:40000"."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while app.state.service.state != "ready" or not server.started:
            threading.Event().wait(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
