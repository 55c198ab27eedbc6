"""One after the other on an event loop, with whatever else is due in between."""

from __future__ import annotations

import asyncio
from collections import deque


class FairQueue:
    """Lets those that wait go on in their order, one a round of the event loop.

    Work of a millisecond each, begun by hundreds at once, would otherwise be done in one round: whatever else came
    would wait for all of it.

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
        """Until all that came before have gone on, and the event loop has looked at what else there is."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        turn = self._waiting.popleft()
        if not turn.done():  # whoever waited may have been cancelled
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
