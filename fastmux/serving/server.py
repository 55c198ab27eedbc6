"""A server in a process of its own: what `fastmux serve` runs."""

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

#: Of a connection on which nothing happens; longer than load balancers usually keep theirs.
_KEEP_ALIVE_SECONDS = 75
#: Connections that are accepted in one round of the event loop, before what is connected already is looked at again.
_ACCEPTED = 32
#: Connections that the kernel holds until they are accepted, as far as it allows so many (net.core.somaxconn). A client
#: for whom there is no room tries again after a second, and then after two.
_BACKLOG = 16384
#: Seconds that a thread keeps the interpreter while another one waits for it. The model's thread and the one that
#: answers clients share it: at Python's 5 ms, a refusal, which needs it several times, would take as many of them.
_SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Told to end, it answers what it has taken and refuses with status 503 what still comes; then it closes its
    socket. Told again, it ends at once."""

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
        except OSError as error:  # another program has begun to listen there, meanwhile
            await self.lifespan.shutdown()
            raise problem(error, host, port) from error
        for one in sockets or ():
            address, port = one.getsockname()[:2]
            log.info("running on http://%s:%d", f"[{address}]" if ":" in address else address, port)
        for server in self.servers:
            for listener in server.sockets:
                # asyncio takes one number for the connections that wait and for those that it accepts in a round.
                with socket.socket(fileno=os.dup(listener.fileno())) as same:
                    same.listen(_BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        if self._last_moment is not None:
            self.service.drain()
            self.should_exit |= not self.service.in_flight or time.monotonic() > self._last_moment
        return await super().on_tick(counter)


def log_as_json(level: str) -> None:
    """Have this process log as `log_config` says, and print nothing else; before anything is loaded."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    logging.config.dictConfig(log_config(level))


def run(app: FastAPI, host: str, port: int, shutdown_seconds: float, bound: list[socket.socket] | None = None) -> None:
    """Serve until the process is told to end, by SIGTERM or SIGINT.

    Args:
        bound: what `fastmux.serving.sockets.bind` has for host and port; made here if None.

    Raises:
        ValueError: nobody can listen there.
    """
    bound = bind(host, port) if bound is None else bound
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # the app says more of each request
        loop="asyncio",  # uvloop accepts a single connection a round, and lets the others of a crowd wait
        backlog=_ACCEPTED,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    # A model with its library is a million objects; to look through them all would hold up every request.
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
