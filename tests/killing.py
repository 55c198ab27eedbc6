"""Faults: processes that are killed at a chosen file operation, as ``kill -9`` does it, and disks that are full."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def in_child(work: Callable[[], object]) -> int:
    """Runs ``work`` in a process of its own; returns the number of the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the process failed before it could be killed"
        return 0
    return os.WTERMSIG(status)


def killed_after(folder: Path, operations: int, seconds: float) -> None:
    """Has this process die ``seconds`` after its so many-th file operation in the folder, as `kill -9` does it.

    The signal is one that nothing handles here, and a timer of the kernel sends it: no clean-up runs.
    """
    left = operations

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_OPERATIONS and isinstance(arguments[0], (str, os.PathLike)):
            inside = os.fspath(arguments[0]).startswith(str(folder))
            if inside and (event != "open" or (arguments[1] or "r")[0] in "wxa"):
                left -= 1
                if left == 0:
                    signal.setitimer(signal.ITIMER_REAL, seconds)

    sys.addaudithook(count)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the system refuses the write, as it does at the end of a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
