"""What a server does with a request: it accepts or refuses it, has its rows labelled, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fastmux.embedding.embedder import Embedder
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.memory_rows import Tokenised
from fastmux.passes.grouping import check_copies
from fastmux.serving.batcher import Batcher, QueueFull
from fastmux.serving.fair_queue import FairQueue
from fastmux.serving.groups import Answer
from fastmux.serving.metrics import Metrics
from fastmux.serving.refused import Refused
from fastmux.serving.settings import ServingSettings

log = logging.getLogger(__name__)

#: Requests up to so many bytes are tokenised in the event loop; longer ones would delay others and go to a thread.
_SHORT = 4096
#: The status, in logs and metrics, of a request whose client left.
_CLIENT_LEFT = 499
_MAX_RETRY_SECONDS = 60
_NO_ROOM = "the queue of rows is full"
#: The time between two log lines that count refused requests.
_TELL_SECONDS = 1.0


class Endpoint(Protocol):
    """What a route does with the rows of a request."""

    #: Its name in logs, and whether it speaks as OpenAI's API does.
    name: str
    openai: bool

    def parse(self, body: bytes) -> Any:
        """What is asked, whose `rows_field` names the field with the rows; ValueError or Refused if it is malformed. It
        may say `copies` and `all_scores`."""

    def rows(self, asked: Any) -> list:
        """The rows of it; Refused if there are none."""

    def tokenise(self, asked: Any, rows: list) -> Sequence[Tokenised | ValueError]:
        """Their tokens, or why a row has none; Refused if that stops the others."""

    def response(self, asked: Any, rows: list, found: Sequence, answers: Sequence) -> Response:
        """The response: for each row what was found of it, and its answer or its error."""


class Service:
    """A model behind the routes that ask it something.

    Attributes:
        state: "warming up", "ready", "draining", or why the model cannot be used.
        in_flight: The number of requests that were accepted and are not answered yet.
    """

    def __init__(self, labeller: Labeller | Embedder, settings: ServingSettings):
        self.labeller, self.settings = labeller, settings
        check_copies(settings.copies, labeller.rows_per_group)
        self.metrics = Metrics()
        self.batcher = Batcher(labeller, settings.max_wait_ms / 1000, settings.max_queued_rows, self.metrics)
        self.state, self.in_flight = "warming up", 0
        self._untold = 0  # refused, but not logged yet
        self._queue = FairQueue()
        self._turned_away = 0  # refused with 429, minus those answered since
        self.metrics.queued_rows.set_function(lambda: len(self.batcher))
        self.metrics.requests_in_flight.set_function(lambda: self.in_flight)

    async def start(self) -> None:
        """Begin to warm up; `state` says when the model is ready."""
        self.state = "warming up"
        self._tokenising = ThreadPoolExecutor(1, "tokenise")
        await self.batcher.start()
        self._warming = asyncio.create_task(self._warm_up())

    async def _warm_up(self) -> None:
        start = time.perf_counter()
        longest = self.labeller.max_length
        try:
            await self.batcher.warm_up([min(8, longest), min(64, longest), longest])
        except Exception as error:
            self.state = f"the model failed while it was warmed up: {type(error).__name__}: {error}"
            log.error(self.state)
            return
        if self.state == "warming up":  # and not told to end meanwhile
            self.state = "ready"
        log.info("ready", extra={"seconds": round(time.perf_counter() - start, 3)})

    def drain(self) -> None:
        """Accept no more requests, and answer those that were accepted without waiting for full groups."""
        self.state = "draining"
        self.batcher.hurry()

    async def close(self) -> None:
        """Answer what was accepted, and end."""
        self.drain()
        await self._warming
        await self.batcher.close()
        self._tell()
        self._tokenising.shutdown()

    def refusal(self, openai: bool = False) -> Response | None:
        """The refusal of a request that comes now, before anything of it is read; None if there is a `place` for it.

        This takes a tenth of the processor time that routes and logs would take. Otherwise the last requests of a
        crowd, and all others that come meanwhile, would wait for seconds.
        """
        try:
            self._admit()
        except Refused as refused:
            self.metrics.requests.labels(str(refused.status)).inc()
            if not self._untold:
                asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell)
            self._untold += 1
            return refused.response(openai)
        return None

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a request's place among those in progress; entered when it is the request's turn to be read."""
        self.in_flight += 1
        try:
            await self._queue.wait()
            yield
        finally:
            self.in_flight -= 1

    def fallback(self) -> dict | None:
        """The fallback, its confidence threshold, and the share of the rows that it has answered."""
        engine = self.labeller.engine
        if engine.fallback is None:
            return None
        answered, rows = self.metrics.rows_so_far()
        share = rows / answered if answered else None
        limit = engine.min_confidence
        return {"model": self.labeller.fallback_name, "min_confidence": limit, "rows": int(rows), "share": share}

    def _tell(self) -> None:
        """Log how many requests were refused since the last such line."""
        if self._untold:
            log.info("refused", extra={"requests": self._untold, "in_flight": self.in_flight})
            self._untold = 0

    async def respond(self, request: Request, endpoint: Endpoint) -> Response:
        """The response to a request that has its `place`."""
        start = time.perf_counter()
        status, rows = _CLIENT_LEFT, 0
        try:
            response, rows = await self._answers(request, endpoint)
            status = response.status_code
            self.metrics.request_seconds.observe(time.perf_counter() - start)
            self._turned_away = max(0, self._turned_away - 1)
            return response
        except Refused as refused:
            response = refused.response(endpoint.openai)
            status = response.status_code
            return response
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            seconds = round(time.perf_counter() - start, 6)
            log.info(endpoint.name, extra={"status": status, "rows": rows, "seconds": seconds})

    async def _answers(self, request: Request, endpoint: Endpoint) -> tuple[Response, int]:
        """The response, and how many rows it answers."""
        body = await self._body(request)
        try:
            asked = endpoint.parse(body)
            copies = getattr(asked, "copies", None)
            copies = self.settings.copies if copies is None else copies
            check_copies(copies, self.labeller.rows_per_group)
        except ValueError as error:
            raise Refused(422, str(error), param=getattr(error, "param", None)) from error
        rows = endpoint.rows(asked)
        limit = self.settings.max_rows_per_request
        if len(rows) > limit:
            reason = f"{asked.rows_field} has {len(rows)} rows, the limit is {limit} (max_rows_per_request)"
            raise Refused(413, reason, param=asked.rows_field)
        if not self.batcher.has_room(len(rows)):
            self._reject("queue", _NO_ROOM)
        found = await self._tokenised(endpoint, asked, rows, len(body))
        good = [row for row in found if isinstance(row, Tokenised)]
        cut = sum(row.cut for row in good)
        self.metrics.rows.labels("malformed").inc(len(found) - len(good))
        self.metrics.cut_rows.inc(cut)
        tenant = request.headers.get("x-tenant", "")
        try:
            waiting = self.batcher.submit(good, tenant, copies, getattr(asked, "all_scores", False))
        except QueueFull as error:
            self._reject("queue", _NO_ROOM, error)
        answers = iter(await self._until_answered(waiting, request))
        outcomes = [next(answers) if isinstance(row, Tokenised) else row for row in found]
        response = endpoint.response(asked, rows, found, outcomes)
        response.headers["X-Truncated"] = str(cut)
        return response, len(rows)

    def _admit(self) -> None:
        if self.state != "ready":
            self.metrics.rejected.labels("not ready").inc()
            raise Refused(503, self.state, 1)
        if self.in_flight >= self.settings.max_concurrent_requests:
            self._reject("concurrency", f"{self.in_flight} requests are being answered already")
        if not self.batcher.has_room(1):
            self._reject("queue", _NO_ROOM)

    def _reject(self, reason: str, message: str, cause: Exception | None = None) -> None:
        self.metrics.rejected.labels(reason).inc()
        # Refused clients come back. Told the same time, all would come at once, and most would be refused again.
        self._turned_away += 1
        seconds = min(_MAX_RETRY_SECONDS, max(1, math.ceil(self.batcher.seconds_for(self._turned_away))))
        raise Refused(429, f"overloaded: {message}", seconds) from cause

    async def _body(self, request: Request) -> bytes:
        limit = self.settings.max_payload_bytes
        too_large = Refused(413, f"the request is larger than {limit} bytes (max_payload_bytes)")
        with contextlib.suppress(ValueError):
            if int(request.headers.get("content-length", "0")) > limit:
                raise too_large
        parts, size = [], 0
        try:
            with anyio.fail_after(self.settings.read_timeout):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise too_large
                    parts.append(part)
        except TimeoutError as error:
            seconds = self.settings.read_timeout
            raise Refused(408, f"the request took more than {seconds} s to arrive (read_timeout)") from error
        return b"".join(parts)

    async def _tokenised(
        self, endpoint: Endpoint, asked: Any, rows: list, size: int
    ) -> Sequence[Tokenised | ValueError]:
        if size <= _SHORT:
            return endpoint.tokenise(asked, rows)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenising, endpoint.tokenise, asked, rows)

    async def _until_answered(
        self, waiting: list[asyncio.Future[Answer]], request: Request
    ) -> list[Answer | BaseException]:
        """The outcomes of all rows.

        Raises:
            ClientDisconnect: The client has left. Its rows that are not in a pass yet are dropped.
        """
        if not waiting:
            return []
        left = asyncio.ensure_future(_until_left(request))
        answered = asyncio.gather(*waiting, return_exceptions=True)
        try:
            await asyncio.wait({left, answered}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientDisconnect
            return answered.result()
        finally:
            left.cancel()
            for answer in waiting:
                answer.cancel()


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
