"""More requests than a server can answer, from clients that do as they are told: part of bench/serve.py.

First so many clients as the server lets in, each of which asks again as soon as it has an answer, find the requests a
second that it answers at most. Then clients come at the moments of a Poisson process, at a multiple of that rate. A
client that is refused with 429 or 503 goes away, comes back after as long as ``Retry-After`` says, or up to half as
much more, and so on until it has its answer. A client that gets none, or anything else, is lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.clients import REFUSALS, Clients
from bench.served import LEFT, Server, percentiles
from fastmux.training.formatting import table

#: The share of the requests that a server lets in at a time, of clients that look for its capacity: beside it there is
#: room for those whose answer is on its way.
_SHARE = 0.75


def answered_rate(found: list[tuple], seconds: float) -> float:
    """The answers a second, but for the first fifth of a run."""
    answers = [due + took for due, status, took, *_ in found if status == 200]
    return sum(seconds / 5 <= moment < seconds for moment in answers) / (0.8 * seconds)


def summary(found: list[tuple]) -> dict:
    """What became of the clients of an open load, from all their requests.

    Args:
        found: (second at which it was due, status, latency, second at which its client came first) of each request.

    Example:
        >>> from bench.open_load import summary
        >>> told = summary([(0.0, 429, 0.01, 0.0), (1.0, 200, 0.5, 0.0), (0.2, 0, 0.1, 0.2)])
        >>> told["clients"], told["requests"], told["refused"], told["answered"], told["lost"], told["answer_ms"]["max"]
        (2, 3, {'429': 1}, 1, 1, 1500.0)
    """
    statuses = Counter(status for _, status, *_ in found)
    clients = sum(due == first for due, _, _, first in found)
    return {
        "clients": clients,
        "requests": len(found),
        "refused": {str(status): statuses[status] for status in REFUSALS if statuses[status]},
        "other": {str(status): number for status, number in statuses.items() if status not in (200, *REFUSALS)},
        "answered": statuses[200],
        "lost": clients - statuses[200],
        "last_answer_seconds": max((due + took for due, status, took, _ in found if status == 200), default=0.0),
        "answer_ms": percentiles(due + took - first for due, status, took, first in found if status == 200),
        "refusal_ms": percentiles(took for _, status, took, _ in found if status in REFUSALS),
    }


def measure(one: Server, texts: Path, path: str, args) -> dict:
    """A server's capacity, and an open load of ``args.overload`` times that."""
    how = {"path": path, "processes": args.processes}
    together = max(1, int(_SHARE * args.max_concurrent_requests))
    closed = Clients(one.url, texts, args.seconds, seed=1, closed=max(1, together // args.processes), **how).found()
    capacity = answered_rate(closed, args.seconds)
    rate = args.overload * capacity
    print(f"{path}: {capacity:.1f} answers a second at most; {rate:.1f} requests a second now", flush=True)
    before = one.metrics(LEFT)
    share = rate / args.processes
    patient = {"patient": True, "timeout": args.timeout}
    found = Clients(one.url, texts, args.seconds, seed=2, rate=share, **patient, **how).found()
    time.sleep(2.0)
    told = {"path": path, "together": together, "capacity": capacity, "rate": rate, **summary(found)}
    told["answers_per_second"] = answered_rate(found, args.seconds)
    return told | {"left": [before, one.metrics(LEFT)]}


def section(result: dict) -> Iterator[str]:
    """The page's section on a file with an open load."""
    encoder, factor = result["encoder"], result["overload"]
    yield (
        f"Clients at Poisson moments for {result['seconds']:g} s, {factor:g} times as many as the server answers, who "
        f"come back when `Retry-After` tells them. Classifiers: {encoder['num_hidden_layers']} layers, "
        f"d = {encoder['hidden_size']}, random weights. Rows are SST-2's; load average "
        f"{result['load_average_before'][0]:.1f} before and {result['load_average_after'][0]:.1f} after. "
        f"`python bench/serve.py --overload {factor:g}`."
    )
    columns = {"model": "{model}, `{path}`", "answers/s at most": "{capacity:.0f}"}
    columns |= {"under load": "{answers_per_second:.0f}"}
    columns |= {name: f"{{{name}:,}}" for name in ("clients", "requests", "turned away", "answered", "lost")}
    columns |= {
        "last answer, s": "{last_answer_seconds:.0f}",
        "to the answer, s, p50 / p99 / max": "{to[p50]:.1f} / {to[p99]:.1f} / {to[max]:.1f}",
        "refusal, ms, p50 / p99": "{refusal_ms[p50]:.0f} / {refusal_ms[p99]:.0f}",
        "left over": "{over:.0f}",
    }
    rows = []
    for one in result["open_load"]:
        left = one["left"][-1]
        to = {name: value / 1000 for name, value in one["answer_ms"].items()}
        more = {"turned away": sum(one["refused"].values()), "over": left["queued_rows"] + left["in_flight"], "to": to}
        rows.append(one | more)
    yield table(rows, columns)
