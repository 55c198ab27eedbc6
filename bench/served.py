"""A server that benchmarks measure, in a process of its own, and what they count of its answers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

#: The metrics that show what clients left behind.
LEFT = {
    "queued_rows": "fastmux_queued_rows",
    "in_flight": "fastmux_requests_in_flight",
    "open_files": "process_open_fds",
    "resident_bytes": "process_resident_memory_bytes",
    "cpu_seconds": "process_cpu_seconds_total",
}


@contextlib.contextmanager
def server(folder: Path, threads: int, options: list[str]) -> Iterator[Server]:
    """Starts a server of a stored model on a free port, and waits until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fastmux", "serve", str(folder), "--port", str(port)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen([*command, "--log_level", "warning", *options], env=env)
    found = Server(f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                found.get("/health")
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"the server did not become ready (exit status {process.poll()})")
        yield found
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A running server."""

    def __init__(self, url: str):
        self.url = url

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def metrics(self, names: Mapping[str, str]) -> dict[str, float]:
        return {name: self.metric(metric) for name, metric in names.items()}


def latencies(found: Iterable[tuple], status: int) -> dict[str, float]:
    """Number, percentiles and the longest, in milliseconds, of the latencies of the requests with that status."""
    return percentiles(row[2] for row in found if row[1] == status)


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    milliseconds = 1000 * np.fromiter(seconds, float)
    if not len(milliseconds):
        return {"requests": 0}
    values = np.percentile(milliseconds, [50, 90, 99, 100]).tolist()
    return {"requests": len(milliseconds), **dict(zip(("p50", "p90", "p99", "max"), values, strict=True))}
