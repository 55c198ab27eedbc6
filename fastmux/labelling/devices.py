"""The devices that torch finds on this machine."""

from __future__ import annotations

import torch

from fastmux.labelling.placement import Placement


def torch_placement(
    device: str | None,
    dtype: str | None,
    batch_tokens: int | None,
    torch_compile: bool,
    execution: str | None = None,
) -> Placement:
    """The placement that is asked for; None stands for the GPU if there is one, and for its usual values.

    Raises:
        ValueError: There is no such device here, or its passes cannot run as ``execution`` says.
    """
    found = checked_device(device)
    usual = "float32" if found.type == "cpu" else "bfloat16"
    if execution == "captured" and found.type != "cuda":
        raise ValueError(f"execution is 'captured', as CUDA graphs, but device is {str(found)!r}; expected 'eager'")
    if execution == "captured" and torch_compile:
        raise ValueError("execution is 'captured', but torch_compile is given; give one of them")
    captured = found.type == "cuda" and execution != "eager" and not torch_compile
    return Placement(str(found), dtype or usual, batch_tokens, torch_compile, captured=captured)


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; the GPU if there is one, else the CPU, if None.

    Raises:
        ValueError: torch knows no device of that name, or there is none here.

    Example:
        >>> from fastmux.labelling.devices import checked_device
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
