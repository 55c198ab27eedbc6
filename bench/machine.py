"""The machine a figure belongs to, and where figures are kept: every result names its device, versions and commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

BENCH = Path(__file__).resolve().parent
#: Bytes a second that the memory of a GPU moves by its data sheet: A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 (one of
#: its eight) and Instinct MI300X.
DATASHEET = {"A100": 2.039e12, "H100": 3.35e12, "H200": 4.8e12, "B200": 8.0e12, "MI300X": 5.3e12}


def default_device() -> torch.device:
    """The accelerator, if the machine has one that torch can use; otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was asked to; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_info(device: torch.device) -> dict[str, str | int | None]:
    """Device, CPU and versions, as recorded beside every figure."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit the working tree is at, with ``-dirty`` behind it if files differ; None outside a git checkout."""
    git = ["git", "-C", str(BENCH), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def results_folder(device: torch.device) -> Path:
    """bench/results/<device>: ``cpu-2core``, ``nvidia-h200``."""
    name = f"cpu-{os.cpu_count()}core" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return BENCH / "results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
