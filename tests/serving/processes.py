"""``fastmux serve`` as a process, and what it logs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


class Process:
    """A running server: its address, and the lines that it has logged so far."""

    def __init__(self, model: Path, *options: str):
        command = [sys.executable, "-m", "fastmux", "serve", str(model), "--port", "0", *options]
        self.popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.logged: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.popen.stderr:
            self.logged.append(line)
            if '"message": "ready"' in line:
                self._ready.set()
        self._ready.set()

    def url(self) -> str:
        """Where it is, once it is ready."""
        assert self._ready.wait(60)
        found = re.search(r"running on (http://[\d.:]+)", "".join(self.logged))
        assert found, self.logged
        return found[1]

    def end(self, seconds: float = 20) -> int:
        """Its exit status, once it has ended."""
        status = self.popen.wait(seconds)
        self._reader.join()
        return status

    def lines(self) -> list[dict]:
        """What it logged."""
        return [json.loads(line) for line in self.logged]


@contextlib.contextmanager
def process(model: Path, *options: str) -> Iterator[Process]:
    """A server that is gone in the end."""
    server = Process(model, *options)
    try:
        yield server
    finally:
        server.popen.kill()
        server.end()
        server.popen.stderr.close()
