"""A crowd of clients of `fastmux serve`, or one that stands beside it. Run by bench/serve.py.

    python bench/crowd.py 127.0.0.1:8000 --texts rows.txt --clients 5000 --arrive_seconds 2 --seconds 30
    python bench/crowd.py 127.0.0.1:8000 --texts rows.txt --probe --seconds 30

On sockets, without a library for clients: five thousand clients of such a library need more of a processor than the
server that they wait for, and what is measured is then their own queue.

The crowd: so many clients, each with a connection of its own, come at random moments of ``--arrive_seconds`` and send a
row. One that is told 429 stays connected and asks again after as many seconds as it was told to wait, and up to half of
that more; or, with ``--impatient``, after one to two seconds whatever it was told. Each stays until it has an answer,
or until time is up.

The probe: one client that connects, asks for a row, reads the status, hangs up and waits ``--pause`` seconds, over and
over. It says how late it woke from every pause, too: what a program on this machine waits for a processor, whatever the
server does.

Prints JSON: the crowd of every request the second it was sent at, its status (0: no answer) and its latency, which of a
first request counts from the moment at which it was due; the probe also the seconds until it was connected, and how
late it woke.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import re
import resource
import selectors
import socket
import time
from pathlib import Path

Found = list[tuple[float, ...]]


def request(host: str, text: str) -> bytes:
    """A row to label, in bytes."""
    body = json.dumps({"inputs": text}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(read: bytes) -> tuple[int, float] | None:
    """Status of an answer, and the seconds to stay away; None while some of it is missing."""
    head, end, body = read.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if not end or length is None or len(body) < int(length[1]):
        return None
    away = re.search(rb"retry-after: (\d+)", head, re.IGNORECASE)
    return int(head.split(b" ", 2)[1]), float(away[1]) if away else 0.0


class Client:
    """One of a crowd."""

    def __init__(self, due: float, asks: bytes):
        self.due, self.asks, self.read = due, asks, b""
        self.socket: socket.socket | None = None


def crowd(address: tuple[str, int], asks: list[bytes], args: argparse.Namespace, draw: random.Random) -> Found:
    """All that a crowd asked, in one thread."""
    clients = [Client(draw.uniform(0.0, args.arrive_seconds), draw.choice(asks)) for _ in range(args.clients)]
    due = [(client.due, number) for number, client in enumerate(clients)]
    heapq.heapify(due)
    found: Found = []
    start, open_requests = time.perf_counter(), 0
    with selectors.DefaultSelector() as selector:

        def ended(client: Client, number: int, status: int, away: float) -> None:
            nonlocal open_requests
            open_requests -= 1
            now = time.perf_counter() - start
            found.append((client.due, status, now - client.due))
            selector.unregister(client.socket)
            if status != 429:
                client.socket.close()
                return
            wait = draw.uniform(1.0, 2.0) if args.impatient else max(1.0, away) * draw.uniform(1.0, 1.5)
            client.due, client.read = now + wait, b""
            heapq.heappush(due, (client.due, number))

        while (now := time.perf_counter() - start) < args.seconds and (due or open_requests):
            for _ in range(64):  # then those that have an answer
                if not due or due[0][0] > now:
                    break
                _, number = heapq.heappop(due)
                client, open_requests = clients[number], open_requests + 1
                if client.socket is None:
                    client.socket = socket.socket()
                    client.socket.setblocking(False)
                    client.socket.connect_ex(address)
                selector.register(client.socket, selectors.EVENT_WRITE, (client, number))
            left = min(1.0, max(0.0, due[0][0] - (time.perf_counter() - start))) if due else 1.0
            for key, events in selector.select(left):
                client, number = key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        client.socket.sendall(client.asks)
                        selector.modify(client.socket, selectors.EVENT_READ, key.data)
                        continue
                    part = client.socket.recv(65536)
                except OSError:
                    part = b""
                client.read += part
                known = answer(client.read)
                if known or not part:
                    ended(client, number, *(known or (0, 0.0)))
    for client in clients:
        if client.socket is not None:
            client.socket.close()
    return found


def probe(address: tuple[str, int], asks: list[bytes], args: argparse.Namespace, draw: random.Random) -> Found:
    """What one client sees, request by request."""
    found: Found = []
    start = time.perf_counter()
    while (begin := time.perf_counter() - start) < args.seconds:
        time.sleep(args.pause)
        asked = time.perf_counter() - start
        with socket.socket() as one:
            one.settimeout(60.0)
            one.connect(address)
            connected = time.perf_counter() - start
            one.sendall(draw.choice(asks))
            read, known = b"", None
            while known is None and (part := one.recv(65536)):
                read += part
                known = answer(read)
            took = time.perf_counter() - start - asked
        found.append((asked, known[0] if known else 0, took, connected - asked, asked - begin - args.pause))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port")
    parser.add_argument("--texts", type=Path, required=True, help="a row a line")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--clients", type=int, help="of a crowd")
    how.add_argument("--probe", action="store_true", help="one client, beside it")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--arrive_seconds", type=float, default=2.0, help="of the crowd (default: 2)")
    parser.add_argument("--impatient", action="store_true", help="ask again after 1 to 2 seconds, whatever it was told")
    parser.add_argument("--pause", type=float, default=0.02, help="of the probe, in seconds (default: 0.02)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    host, _, port = args.address.rpartition(":")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    texts, draw = args.texts.read_text(encoding="utf-8").splitlines(), random.Random(args.seed)
    asks = [request(args.address, text) for text in texts]
    print(json.dumps((probe if args.probe else crowd)((host, int(port)), asks, args, draw)))


if __name__ == "__main__":
    main()
