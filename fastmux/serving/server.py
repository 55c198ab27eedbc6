"""A server that has its process to itself: what `fastmux serve` runs."""

from __future__ import annotations

import gc
import logging
import logging.config
import os
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from fastmux.serving.logs import log_config
from fastmux.serving.sockets import bind, problem

#: Idle connections are kept for so long, which is longer than load balancers usually keep theirs.
_KEEP_ALIVE_SECONDS = 75
#: The most connections that are accepted in one round of the event loop, before it serves those that it has.
_ACCEPTED = 32
#: The most connections that the kernel queues until they are accepted, if it allows so many (net.core.somaxconn). A
#: client without room tries again after one second, and then after two.
_BACKLOG = 16384
#: How many seconds a thread keeps the interpreter while another thread waits for it. The model's thread and the one
#: that answers clients share it. A refusal needs it several times, and would each time take Python's default of 5 ms.
_SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """On the first signal to end, it answers the rows that it has, refuses new requests with status 503, and then
    closes its socket. On the second signal it ends at once."""

    def __init__(self, app: FastAPI, config: uvicorn.Config, shutdown_seconds: float):
        super().__init__(config)
        self.service, self.shutdown_seconds = app.state.service, shutdown_seconds
        self._last_moment: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._last_moment is not None:
            self.force_exit = self.should_exit = True
        else:
            self._last_moment = time.monotonic() + self.shutdown_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        host, port = self.config.host, self.config.port
        try:
            await super().startup(sockets)
        except OSError as error:  # meanwhile another program listens there
            await self.lifespan.shutdown()
            raise problem(error, host, port) from error
        for one in sockets or ():
            address, port = one.getsockname()[:2]
            log.info("running on http://%s:%d", f"[{address}]" if ":" in address else address, port)
        for server in self.servers:
            for listener in server.sockets:
                # asyncio has one number for queued connections and for those that it accepts in a round; this sets
                # the former apart.
                with socket.socket(fileno=os.dup(listener.fileno())) as same:
                    same.listen(_BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        if self._last_moment is not None:
            self.service.drain()
            self.should_exit |= not self.service.in_flight or time.monotonic() > self._last_moment
        return await super().on_tick(counter)


def log_as_json(level: str) -> None:
    """Make this process log as `log_config` says, without progress bars. Call it before a model is loaded."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    logging.config.dictConfig(log_config(level))


def run(app: FastAPI, host: str, port: int, shutdown_seconds: float, bound: list[socket.socket] | None = None) -> None:
    """Serve until the process is told to end, by SIGTERM or SIGINT.

    Args:
        app: The app.
        host, port: Where to listen.
        shutdown_seconds: How many seconds it goes on, once told to end, for rows that it has taken.
        bound: The sockets that `fastmux.serving.sockets.bind` made for host and port. If None, they are made here.

    Raises:
        ValueError: The process cannot listen there.
    """
    bound = bind(host, port) if bound is None else bound
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # the app says more of each request
        loop="asyncio",  # uvloop accepts one connection a round, so that a crowd would wait
        backlog=_ACCEPTED,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    # A model with its library has a million objects; garbage collections of them would delay every request.
    gc.collect()
    gc.freeze()
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        _Server(app, config, shutdown_seconds).run(bound)
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
        for one in bound:
            one.close()
