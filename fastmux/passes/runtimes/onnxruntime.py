"""ONNX Runtime, on a CPU: a model that ``fastmux export`` wrote, in a process without torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastmux.distribution import of_extra
from fastmux.passes.runtimes.record import RuntimeRecord

#: What multiplies bytes without losing a bit on the way, as the kernel names a processor's features.
_MULTIPLIES_BYTES = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


class OnnxRuntime:
    """An exported model; see `fastmux.passes.runtimes.Runtime`.

    Args:
        folder: What ``fastmux export`` wrote.
        num_threads: Threads of a pass; as many as OMP_NUM_THREADS says, or as there are processors, if None.

    Raises:
        ValueError: The folder is damaged or of another version, or this processor cannot run its precision.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: Path, num_threads: int | None = None):
        with of_extra("onnx", "an exported model"):
            import onnxruntime

        self.record = RuntimeRecord.load(folder)
        if self.record.precision == "int8":
            check_processor()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or threads()
        # A thread that has nothing to do would otherwise spin on a processor that the tokenizer needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                folder / self.record.file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of a library that raises classes of its own
            raise ValueError(f"ONNX Runtime does not take {self.record.file}: {error}") from error
        self._names = [given.name for given in self._session.get_inputs()]
        self.layout, self.per_token = self.record.layout, self.record.per_token
        self.num_instances, self.num_labels = self.layout.rows, len(self.record.labels)
        self.weights = self.record.weights
        self.problem_type, self.pad_token_id = self.record.problem_type, self.record.pad_token_id

    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """See `Runtime`."""
        given = {name: inputs[name] if name in inputs else np.zeros_like(inputs["input_ids"]) for name in self._names}
        (logits,) = self._session.run(None, given)
        return lambda: logits

    def ready(self) -> contextlib.AbstractContextManager[None]:
        """See `Runtime`."""
        return contextlib.nullcontext()


def threads() -> int:
    """As many as OMP_NUM_THREADS says, or as this process may use processors."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else len(os.sched_getaffinity(0))


def check_processor() -> None:
    """Raises ValueError on a processor whose products of bytes overflow: they need VNNI, AMX, or ARM's dot products."""
    words = set(_cpuinfo().split())
    if not words.intersection(_MULTIPLIES_BYTES) and "flags" in words:
        raise ValueError(
            "precision is 'int8', but this processor has neither AVX-VNNI, AVX-512 VNNI nor AMX: sums of products of "
            "bytes would overflow; export with precision='float32'"
        )


def _cpuinfo() -> str:
    """What the kernel says of the processors; nothing on other systems than Linux."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
