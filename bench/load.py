"""Requests to a server of `fastmux serve`, from one process, in an open loop. Run by bench/serve.py.

    python bench/load.py http://127.0.0.1:8000 --texts rows.txt --rate 50 --seconds 20
    python bench/load.py http://127.0.0.1:8000 --texts rows.txt --crowd 5000 --seconds 30

One row a request, at moments drawn from a Poisson process, whatever the server does. A latency counts from the moment
that was drawn, so that a request that is sent late, as the server holds up the client, is not forgiven.

Prints JSON: of every request the second it was due at, its status (0: no answer) and its latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from pathlib import Path

import aiohttp


async def ask(session: aiohttp.ClientSession, url: str, text: str, due: float) -> tuple[int, float]:
    """Status and latency."""
    try:
        async with session.post(url, json={"inputs": text}) as answer:
            await answer.read()
            return answer.status, time.perf_counter() - due
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return 0, time.perf_counter() - due


async def open_loop(
    session: aiohttp.ClientSession, url: str, texts: list[str], rate: float, seconds: float, draw: random.Random
) -> list[tuple[float, int, float]]:
    """Requests at a rate; those that are under way at the end are waited for."""
    start, due, tasks, found = time.perf_counter(), 0.0, set(), []

    async def one(at: float, text: str) -> None:
        status, latency = await ask(session, url, text, start + at)
        found.append((at, status, latency))

    while (due := due + draw.expovariate(rate)) < seconds:
        if (left := start + due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        task = asyncio.create_task(one(due, draw.choice(texts)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found


async def run(args: argparse.Namespace) -> list[tuple[float, int, float]]:
    texts, draw = args.texts.read_text(encoding="utf-8").splitlines(), random.Random(args.seed)
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    timeout = aiohttp.ClientTimeout(total=args.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = f"{args.url}/predict"
        return await open_loop(session, url, texts, args.rate, args.seconds, draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--texts", type=Path, required=True, help="a row a line")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--timeout", type=float, default=60.0, help="of a request, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
