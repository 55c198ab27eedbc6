"""Let waiting tasks go on one at a time, so that other work of the event loop runs in between."""

from __future__ import annotations

import asyncio
from collections import deque


class FairQueue:
    """Lets waiting tasks go on in their order, one in each round of the event loop.

    Otherwise hundreds of tasks that take a millisecond each would all run in one round, and everything else would wait
    for all of them.

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

    async def wait(self) -> None:
        """Wait until all earlier tasks have gone on and the event loop has done what else was due."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        turn = self._waiting.popleft()
        if not turn.done():  # the waiting task may have been cancelled
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
