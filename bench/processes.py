"""Processes that are measured, commands with a deadline, and an environment in which packages are missing."""

from __future__ import annotations

import json
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

import psutil

ROOT = Path(__file__).resolve().parent.parent
#: The seconds that an interrupted command gets to write its summary.
GRACE = 8.0

#: Makes the finder of modules on the path, and the one of distributions, find nothing of the hidden packages.
HIDING = """
import importlib.machinery
import importlib.metadata

HIDDEN = frozenset({packages!r})
modules, distributions = importlib.machinery.PathFinder, importlib.metadata.MetadataPathFinder
find_module, find_distributions = modules.find_spec, distributions.find_distributions


def visible(name):
    return name.partition(".")[0].lower().replace("-", "_") not in HIDDEN


modules.find_spec = classmethod(lambda cls, name, *rest: find_module(name, *rest) if visible(name) else None)
modules.find_distributions = distributions.find_distributions = classmethod(
    lambda cls, *context: (d for d in find_distributions(*context) if visible(d.name or ""))
)
"""


def environment(without: Iterable[str] = (), folder: Path | None = None) -> dict[str, str]:
    """The environment of a command that imports this checkout and prints as it goes.

    Args:
        without: Packages that the command does not find, by the names under which they are imported.
        folder: Where the file that hides them is written; needed if there are any.
    """
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if packages := sorted(without):
        # Every Python that starts with this folder on its path reads the file, workers of workers included.
        (folder / "sitecustomize.py").write_text(HIDING.replace("{packages!r}", repr(packages)), encoding="utf-8")
        path.insert(0, str(folder))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def watched(code: str, checkout: Path = ROOT) -> dict:
    """Runs some Python, which imports a checkout, and ends by printing a dictionary with its ``peak_bytes`` as JSON.

    Returns:
        That dictionary, with the seconds on the clock and of the processor, in all processes; the sum of the peaks of
        memory of the processes that it started; and the most memory that it held itself in each quarter of its time.
    """
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(checkout), env["PYTHONPATH"]])
    start, before = time.perf_counter(), sum(os.times()[2:4])
    process = subprocess.Popen([sys.executable, "-c", code], cwd=checkout, env=env, stdout=subprocess.PIPE, text=True)
    first, held, others = psutil.Process(process.pid), [0], {}
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        with suppress(psutil.Error):  # it has ended
            held.append(first.memory_info().rss)
            for child in first.children(recursive=True):
                others[child.pid] = max(others.get(child.pid, 0), child.memory_info().rss)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found = json.loads(process.stdout.read().splitlines()[-1])
    found["peak_bytes"] = max(found["peak_bytes"], *held)
    found |= {"seconds": time.perf_counter() - start, "processor_seconds": sum(os.times()[2:4]) - before}
    quarters = [held[part * len(held) // 4 : (part + 1) * len(held) // 4] for part in range(4)]
    found["bytes_by_quarter"] = [max(part, default=0) for part in quarters]
    return found | {"peak_bytes_of_other_processes": sum(others.values())}


def run(
    command: list[str],
    seconds: float,
    log: BinaryIO,
    env: dict[str, str],
    meanwhile: Callable[[], object] = lambda: None,
    grace: float = GRACE,
) -> tuple[int | None, float]:
    """Runs a command in a process group of its own; what it prints goes to ``log`` and to this process's output.

    A command that is out of time is interrupted as by Ctrl+C, so that it can say what it has done. It is killed
    ``grace`` seconds later.

    Args:
        meanwhile: Is called every few seconds.

    Returns:
        The exit status (None: out of time) and the seconds taken.
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
