"""Who was let in goes on at the pace of the event loop: one in a short round, more in a long one."""

from __future__ import annotations

import asyncio

import pytest

from fastmux.serving.fair_queue import FairQueue


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (0.003, 1), (0.005, 2), (10.0, 4)])
def test_so_many_go_on_in_a_round(monkeypatch, seconds, expected):
    async def run():
        loop, now, done = asyncio.get_running_loop(), 0.0, []
        monkeypatch.setattr(loop, "time", lambda: now)
        queue = FairQueue()

        async def work(number):
            await queue.wait()
            done.append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(200)]
        await asyncio.sleep(0)  # all of them wait
        counts = []
        for _ in range(6):
            now += seconds * 1.001
            before = len(done)
            await asyncio.sleep(0)
            counts.append(len(done) - before)
        assert set(counts[1:]) == {expected}
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done == sorted(done) and len(done) == 199

    asyncio.run(run())
