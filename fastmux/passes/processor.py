"""The processor: its name, what it multiplies fast, and how many threads a pass may take."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

#: Features that matrix products use, by the names that /proc/cpuinfo has on x86 and on Arm.
FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
#: The features that multiply bytes without losing a bit on the way, and those that multiply bfloat16.
_BYTES = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def processor_name() -> str:
    """The name of the processor, or of its kind where the system does not tell."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Those of `FEATURES` that it has; none where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    there = set(found[1].split()) if found else set()
    return [name for name in FEATURES if name in there]


def check_bytes() -> None:
    """Raises ValueError on a processor whose products of bytes overflow: they need VNNI, AMX, or ARM's dot products."""
    if not _BYTES.intersection(processor_features()) and re.search(r"^flags\s*:", _cpuinfo(), re.MULTILINE):
        raise ValueError(
            "precision is 'int8', but this processor has neither AVX-VNNI, AVX-512 VNNI nor AMX: sums of products of "
            "bytes would overflow; expected 'float32'"
        )


def multiplies_bfloat16() -> bool:
    """Whether it multiplies bfloat16 by itself; in software that takes several times float32's time."""
    return bool(_BFLOAT16.intersection(processor_features()))


def has_gpu() -> bool:
    """Whether the system has the files of a GPU that torch may run on; asked without importing torch."""
    return Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def threads() -> int:
    """As many as OMP_NUM_THREADS says, or as this process may use processors."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else len(os.sched_getaffinity(0))


def _cpuinfo() -> str:
    """What the kernel says of the processors; nothing on other systems than Linux."""
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return ""
