"""Where a model runs, in which dtype, and how large a pass is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmux.passes.plan import PASS_TOKENS, PASS_TOKENS_GPU

#: The default on a CPU, and on any other device.
_BATCH_TOKENS = (1024, 65536)


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        batch_tokens: The most positions of one pass of the encoder, padding included.
        torch_compile: Whether the model is compiled.
    """

    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    torch_compile: bool

    @property
    def pass_tokens(self) -> int:
        """The overhead of a pass on that device, in positions."""
        return PASS_TOKENS if self.device.type == "cpu" else PASS_TOKENS_GPU

    @classmethod
    def of(cls, device: str | None, dtype: str | None, batch_tokens: int | None, torch_compile: bool) -> Placement:
        """The placement that is asked for; None stands for the GPU if there is one, and for its usual values.

        Raises:
            ValueError: The machine has no such device.
        """
        where = checked_device(device)
        slow = where.type == "cpu"
        named = getattr(torch, dtype or ("float32" if slow else "bfloat16"))
        return cls(where, named, batch_tokens or _BATCH_TOKENS[not slow], torch_compile)


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; the GPU if there is one, else the CPU, if None.

    Raises:
        ValueError: torch knows no device of that name, or the machine has none.

    Example:
        >>> from fastmux.labelling.placement import checked_device
        >>> checked_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = f"device is {str(device)!r}" if isinstance(device, torch.device) else f"device is {device!r}"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{given}, expected {_available()}") from error
    count = _count(found.type)
    if not count:
        why = "this torch is built without CUDA" if found.type == "cuda" and _without_cuda() else "there is none here"
        raise ValueError(f"{given}, but {why}; expected {_available()}")
    if found.index is not None and found.index >= count:
        last = "" if count == 1 else f" to '{found.type}:{count - 1}'"
        raise ValueError(f"{given}, expected '{found.type}:0'{last}")
    return found


def _without_cuda() -> bool:
    return torch.version.cuda is None and torch.version.hip is None


def _count(kind: str) -> int:
    """How many devices of that kind this machine can run a model on."""
    if kind == "cpu":
        return 1
    try:
        module = torch.get_device_module(kind)
    except RuntimeError:  # "meta" and the like, on which nothing runs
        return 0
    return module.device_count() if module.is_available() else 0


def _available() -> str:
    """The devices that may be given on this machine."""
    kinds = ["cpu", *(kind for kind in ("cuda", "xpu", "mps") if _count(kind))]
    return " or ".join(repr(kind) for kind in kinds)
