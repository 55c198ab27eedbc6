"""The choice of the implementation that runs an op: fused Triton kernels or PyTorch.

By default ``triton`` runs on tensors on a GPU, ``torch`` on all others. `backend` and the environment variable
``FASTMUX_BACKEND`` select one by name. A selected backend that cannot run raises an error; the other one never takes
its place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch
from torch import Tensor

BACKENDS = ("torch", "triton")
# Looked for once: a value that the first call set would have a compiled call compiled anew.
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

# One variable for the process, not one per thread: autograd runs backward in threads of its own.
_forced: str | None = None


def _validated(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    return name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs every op within the ``with`` block on the backend ``name`` ("torch" or "triton"), in all threads.

    "triton" takes tensors on a GPU. It takes tensors on a CPU if the process runs with ``TRITON_INTERPRET=1``.

    Raises:
        ValueError: There is no backend of that name.

    Example:
        >>> import torch, fastmux
        >>> with fastmux.backend("torch"):
        ...     y = fastmux.functional.hadamard_mux(torch.ones(1, 2, 3, 4), torch.ones(2, 4))
        >>> y.shape
        torch.Size([1, 3, 4])
    """
    global _forced
    previous, _forced = _forced, _validated(name, "backend")
    try:
        yield
    finally:
        _forced = previous


@torch.compiler.assume_constant_result  # else every call of a compiled op would read the environment
def _asked_for() -> str | None:
    name = os.environ.get("FASTMUX_BACKEND")
    return _validated(name, "FASTMUX_BACKEND") if name else None


def choose_backend(tensor: Tensor) -> str:
    """The backend that runs an op on ``tensor``.

    Raises:
        ValueError: ``FASTMUX_BACKEND`` is not a backend, or the triton backend was selected and cannot run here.
    """
    name = _asked_for() if _forced is None else _forced
    if name is None:
        return "triton" if tensor.is_cuda and _TRITON_INSTALLED else "torch"
    if name == "triton":
        if not _TRITON_INSTALLED:
            raise ValueError("backend 'triton' was asked for, but the package triton is not installed")
        if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend 'triton' was asked for with tensors on {tensor.device}; it takes tensors on a GPU, "
                "or on a CPU when the process runs with TRITON_INTERPRET=1"
            )
    return name
