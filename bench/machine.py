"""The machine that a figure belongs to, and where figures are kept. Every result names device, versions and commit.

python -m bench.machine        # writes bench/commit.txt, for a copy of the tree that has no .git
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import torch

from fastmux.training.programs import environment

CPU = torch.device("cpu")
BENCH = Path(__file__).resolve().parent
#: The commit's name, in a tree that was copied without its .git.
COMMIT = BENCH / "commit.txt"
#: Bytes a second that the memory of a GPU moves by its data sheet: A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 (one of
#: its eight) and Instinct MI300X.
DATASHEET = {"A100": 2.039e12, "H100": 3.35e12, "H200": 4.8e12, "B200": 8.0e12, "MI300X": 5.3e12}


def default_device() -> torch.device:
    """The accelerator, if the machine has one that torch can use; otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize(device: torch.device) -> None:
    """Waits until the device has done its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_info(device: torch.device) -> dict[str, object]:
    """The device, CPU and versions that are recorded beside every figure."""
    return environment(device) | {"commit": commit()}


def commit() -> str | None:
    """The commit of the working tree, with ``-dirty`` behind it if files differ. Outside of a git checkout it is what
    bench/commit.txt says, or None."""
    git = ["git", "-C", str(BENCH), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is not None and done.stdout.strip():
        return done.stdout.strip()
    return COMMIT.read_text(encoding="utf-8").strip() if COMMIT.exists() else None


def results_folder(device: torch.device) -> Path:
    """bench/results/<device>: ``cpu-2core``, ``nvidia-h200``."""
    name = f"cpu-{os.cpu_count()}core" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return BENCH / "results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    COMMIT.write_text(f"{commit()}\n", encoding="utf-8")
    print(f"{COMMIT}: {commit()}")
