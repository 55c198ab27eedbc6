"""The machine and the versions on which figures depend, besides the settings."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import fastmux
from fastmux.passes.processor import processor_name

#: Packages whose versions are recorded; none of them is imported for that.
_PACKAGES = ("torch", "triton", "transformers", "datasets")


def environment(device: torch.device | None = None) -> dict[str, object]:
    """What is recorded beside every figure; ``device`` is what it was measured on, by default a GPU if there is one."""
    gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "cpu": processor_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "fastmux": fastmux.__version__,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
