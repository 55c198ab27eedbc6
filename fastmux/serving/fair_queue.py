"""Let waiting tasks go on a few at a time, so that other work of the event loop runs in between."""

from __future__ import annotations

import asyncio
from collections import deque

#: For each so many seconds that a round of the event loop took, one task goes on in the next.
_SECONDS = 0.002
#: The most that go on in a round. With more, connections would be taken too slowly, and the kernel would reset those
#: that wait for long: at three times its capacity a server lost none with 4, and with 32 up to one in 300.
_MOST = 4


class FairQueue:
    """Lets waiting tasks go on in their order: one in a round of the event loop, and more where rounds are long.

    Hundreds of tasks that take a millisecond each would otherwise all run in one round, and everything else would wait
    for all of them. Rounds are long while many other clients are turned away; with one task a round the model would
    then have nothing to do, and more clients would be turned away.

    Example:
        >>> import asyncio
        >>> from fastmux.serving.fair_queue import FairQueue
        >>> async def example():
        ...     queue, done = FairQueue(), []
        ...     async def work(number):
        ...         await queue.wait()
        ...         done.append(number)
        ...     tasks = [asyncio.create_task(work(number)) for number in range(100)]
        ...     await asyncio.sleep(0)  # all of them wait
        ...     for _ in range(10):
        ...         await asyncio.sleep(0)
        ...     early = list(done)
        ...     await asyncio.gather(*tasks)
        ...     return 0 < len(early) < 20, done == list(range(100))
        >>> asyncio.run(example())
        (True, True)
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._last = 0.0

    async def wait(self) -> None:
        """Wait until all earlier tasks have gone on and the event loop has done what else was due."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._last = loop.time()
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        before, self._last = self._last, loop.time()
        for _ in range(min(len(self._waiting), _MOST, max(1, int((self._last - before) / _SECONDS)))):
            turn = self._waiting.popleft()
            if not turn.done():  # the waiting task may have been cancelled
                turn.set_result(None)
        if self._waiting:
            loop.call_soon(self._next)
