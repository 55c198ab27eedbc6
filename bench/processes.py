"""Commands with a deadline, whose output is seen as it comes; and an environment in which packages are missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
#: What an interrupted command may take to write its summary, in seconds.
GRACE = 8.0

#: Wraps every finder of modules: those that are hidden are not found, nor are their distributions.
HIDING = """
import sys

HIDDEN = frozenset({packages!r})


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *args):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, *args)

    def find_distributions(self, *args, **options):
        find = getattr(self.finder, "find_distributions", lambda *args, **options: ())
        return (d for d in find(*args, **options) if (d.name or "").lower().replace("-", "_") not in HIDDEN)


sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def environment(without: Iterable[str] = (), folder: Path | None = None) -> dict[str, str]:
    """That of a command that imports this checkout, prints as it goes, and does not find the packages ``without``.

    Args:
        without: names of packages to be hidden, as they are imported.
        folder: where what hides them is written; needed if there are any.
    """
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if packages := sorted(without):
        # Read by every Python that starts with this folder on its path, workers of workers included.
        (folder / "sitecustomize.py").write_text(HIDING.replace("{packages!r}", repr(packages)), encoding="utf-8")
        path.insert(0, str(folder))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def run(
    command: list[str],
    seconds: float,
    log: BinaryIO,
    env: dict[str, str],
    meanwhile: Callable[[], object] | None = None,
    grace: float = GRACE,
) -> tuple[int | None, float]:
    """Runs a command in a process group of its own; what it prints goes to ``log`` and to this process's output.

    Out of time it is interrupted as by Ctrl+C, so that it can say what it has done, and killed ``grace`` seconds later.

    Args:
        meanwhile: called every few seconds.

    Returns:
        Exit status (None: out of time) and seconds taken.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )

    def pump() -> None:
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            log.write(chunk)
            log.flush()
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()

    pumping = threading.Thread(target=pump, daemon=True)
    pumping.start()
    in_time = True
    try:
        while process.poll() is None and in_time:
            left = start + seconds - time.perf_counter()
            try:
                process.wait(timeout=max(0.0, min(left, 5.0)))
            except subprocess.TimeoutExpired:
                in_time = time.perf_counter() < start + seconds
            if meanwhile is not None:
                meanwhile()
    finally:  # also when this process is told to stop
        if process.poll() is None:
            _signal(process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace)
        _signal(process, signal.SIGKILL)  # and what it left behind
        status = process.wait()
        pumping.join(timeout=grace)
    return status if in_time else None, time.perf_counter() - start


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
