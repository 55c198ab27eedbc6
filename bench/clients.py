"""Clients of `fastmux serve`, on plain sockets in one thread. bench/serve.py runs this program.

    python bench/clients.py 127.0.0.1:8000 --texts rows.txt --seconds 20 --rate 50
    python bench/clients.py 127.0.0.1:8000 --texts rows.txt --seconds 20 --rate 900 --patient
    python bench/clients.py 127.0.0.1:8000 --texts rows.txt --seconds 20 --closed 400
    python bench/clients.py 127.0.0.1:8000 --texts rows.txt --seconds 30 --crowd 5000 --arrive_seconds 2
    python bench/clients.py 127.0.0.1:8000 --texts rows.txt --seconds 30 --probe

No library for clients is used: five thousand clients of one need more of a processor than the server that they wait
for, and would measure their own queue.

``--rate`` sends requests at the moments of a Poisson process, whatever the server does. A latency counts from the
moment that was drawn. So a request counts as late if the server keeps the client from sending it.

With ``--patient`` a client that is told 429 or 503 hangs up, and comes again after the seconds that it was told to
wait, or up to half as many more, until it has another answer.

``--closed`` is so many clients that ask again over the same connection as soon as they have an answer.

``--crowd`` is so many clients that come at random moments within ``--arrive_seconds``. Each sends one row. A client
that is told 429 stays connected and asks again after the seconds that it was told to wait, or up to half as many more;
with ``--impatient``, after one to two seconds whatever it was told. It leaves when it has an answer.

``--probe`` is a single client that connects, asks for a row, reads the status, hangs up and sleeps for ``--pause``
seconds, over and over. It also says how late it woke from every sleep: so long any program on this machine waits for a
processor, whatever the server does.

The output is JSON. For every request: the second at which it was due, its status (0 means no answer), its latency, and
the second at which its client came first. A probe says in place of the last the seconds until it was connected, and how
late it woke.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import re
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Found = list[tuple[float, ...]]
Address = tuple[str, int]


#: The statuses after which a client comes back.
REFUSALS = (429, 503)
#: The routes that are asked, and the fields that their rows are in.
FIELDS = {"/predict": "inputs", "/v1/embeddings": "input"}


def request(host: str, text: str, path: str) -> bytes:
    """The bytes that ask a route for the answer to a row."""
    body = json.dumps({FIELDS[path]: text}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(read: bytes) -> tuple[int, float] | None:
    """The status of an answer and the seconds to stay away, or None while some of the answer is missing."""
    head, end, body = read.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if not end or length is None or len(body) < int(length[1]):
        return None
    away = re.search(rb"retry-after: (\d+)", head, re.IGNORECASE)
    return int(head.split(b" ", 2)[1]), float(away[1]) if away else 0.0


def ask_when_due(
    address: Address,
    moments: Iterable[float],
    ask: Callable[[], bytes],
    again: Callable[[int, float], float | None],
    until: float,
    keep: bool = True,
) -> Found:
    """Sends a request at each moment, over a connection of its own, and again where that is asked for.

    Args:
        moments: Seconds from now.
        ask: Draws a request.
        again: Takes a status and the seconds to stay away; returns the seconds after which the client asks once more,
            or None.
        until: The second at which it ends, whatever is still open.
        keep: Ask once more over the same connection, and not over a new one.
    """
    order = itertools.count()
    due: list[tuple[float, int, socket.socket | None, float]]
    due = [(moment, next(order), None, moment) for moment in moments]
    heapq.heapify(due)
    found: Found = []
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        while (now := time.perf_counter() - start) < until and (due or selector.get_map()):
            for _ in range(64):  # then those that have an answer
                if not due or due[0][0] > now:
                    break
                moment, _, one, first = heapq.heappop(due)
                if one is None:
                    one = socket.socket()
                    one.setblocking(False)
                    one.connect_ex(address)
                selector.register(one, selectors.EVENT_WRITE, [moment, b"", first])
            left = min(1.0, max(0.0, due[0][0] - (time.perf_counter() - start))) if due else 1.0
            for key, events in selector.select(left):
                one, state = key.fileobj, key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        one.sendall(ask())
                        selector.modify(one, selectors.EVENT_READ, state)
                        continue
                    part = one.recv(65536)
                except OSError:
                    part = b""
                state[1] += part
                known = answer(state[1])
                if known is None and part:
                    continue
                selector.unregister(one)
                status, away = known or (0, 0.0)
                now = time.perf_counter() - start
                found.append((state[0], status, now - state[0], state[2]))
                wait = again(status, away)
                if wait is None or not keep:
                    one.close()
                if wait is not None:
                    heapq.heappush(due, (now + wait, next(order), one if keep else None, state[2]))
        ended = time.perf_counter() - start
        for key in selector.get_map().values():
            found.append((key.data[0], 0, ended - key.data[0], key.data[2]))
            key.fileobj.close()
    for moment, _, one, first in due:
        if one is not None:
            one.close()
        elif moment == first:  # never sent
            found.append((moment, 0, max(0.0, ended - moment), first))
    return found


def from_outside(address: Address, ask: Callable[[], bytes], args: argparse.Namespace, draw: random.Random) -> Found:
    """What clients saw who come at the moments of a Poisson process, who are a crowd, or who ask on and on; of the
    first, those that wait at the end get ``--timeout`` seconds more."""
    if args.closed:
        begin = time.perf_counter()

        def at_once(status: int, away: float) -> float | None:
            return 0.0 if status and time.perf_counter() - begin < args.seconds else None

        return ask_when_due(address, [0.0] * args.closed, ask, at_once, args.seconds + args.timeout)
    if args.crowd:
        due = [draw.uniform(0.0, args.arrive_seconds) for _ in range(args.crowd)]
    else:
        waits = iter(lambda: draw.expovariate(args.rate), None)
        due = list(itertools.takewhile(lambda moment: moment < args.seconds, itertools.accumulate(waits)))

    def again(status: int, away: float) -> float | None:
        if status not in REFUSALS or not (args.crowd or args.patient):
            return None
        return draw.uniform(1.0, 2.0) if args.impatient else max(1.0, away) * draw.uniform(1.0, 1.5)

    until = args.seconds + (0.0 if args.crowd else args.timeout)
    return ask_when_due(address, due, ask, again, until, keep=not args.patient)


def probe(address: Address, ask: Callable[[], bytes], args: argparse.Namespace, draw: random.Random) -> Found:
    """What one client saw, request by request."""
    found: Found = []
    start = time.perf_counter()
    while (begin := time.perf_counter() - start) < args.seconds:
        time.sleep(args.pause)
        asked = time.perf_counter() - start
        with socket.socket() as one:
            one.settimeout(60.0)
            one.connect(address)
            connected = time.perf_counter() - start
            one.sendall(ask())
            read, known = b"", None
            while known is None and (part := one.recv(65536)):
                read += part
                known = answer(read)
            took = time.perf_counter() - start - asked
        found.append((asked, known[0] if known else 0, took, connected - asked, asked - begin - args.pause))
    return found


class Clients:
    """Processes that run this program; ``how`` are its options."""

    def __init__(self, url: str, texts: Path, seconds: float, processes: int = 1, seed: int = 0, **how):
        self.seconds = seconds + how.get("timeout", 60.0)
        options = []
        for name, value in how.items():
            options += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        command = [sys.executable, __file__, url.removeprefix("http://"), "--texts", str(texts), *options]
        self.running = [
            subprocess.Popen(
                [*command, "--seconds", str(seconds), "--seed", str(seed + number)], stdout=subprocess.PIPE, text=True
            )
            for number in range(processes)
        ]

    def found(self) -> list[tuple]:
        """(second at which it was due, status, latency, ...) of every request."""
        try:
            outputs = [process.communicate(timeout=self.seconds + 60)[0] for process in self.running]
        finally:
            for process in self.running:
                process.kill()
        return [tuple(one) for output in outputs for one in json.loads(output)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("address", help="The server's address, as host:port.")
    add("--texts", type=Path, required=True, help="A file with a row a line.")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="The requests a second.")
    how.add_argument("--crowd", type=int, help="The number of clients.")
    how.add_argument("--closed", type=int, help="The number of clients.")
    how.add_argument("--probe", action="store_true", help="Send one client, beside the others.")
    add("--seconds", type=float, required=True, help="How long requests are sent.")
    add("--path", choices=FIELDS, default="/predict", help="The route. Default: /predict.")
    add("--patient", action="store_true", help="Let clients at a rate come again when they were told to.")
    add("--timeout", type=float, default=60.0, help="The seconds to wait for late answers. Default: 60.")
    add("--arrive_seconds", type=float, default=2.0, help="The seconds in which a crowd comes. Default: 2.")
    add("--impatient", action="store_true", help="Let a crowd ask again after 1 to 2 s in any case.")
    add("--pause", type=float, default=0.02, help="The seconds that the probe sleeps. Default: 0.02.")
    add("--seed", type=int, default=0, help="The seed of moments and rows. Default: 0.")
    args = parser.parse_args()
    host, _, port = args.address.rpartition(":")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    draw = random.Random(args.seed)
    requests = [request(args.address, text, args.path) for text in args.texts.read_text(encoding="utf-8").splitlines()]
    run = probe if args.probe else from_outside
    print(json.dumps(run((host, int(port)), lambda: draw.choice(requests), args, draw)))


if __name__ == "__main__":
    main()
