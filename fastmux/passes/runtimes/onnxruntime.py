"""ONNX Runtime, on a CPU: a model that ``fastmux export`` wrote, in a process without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastmux.distribution import of_extra
from fastmux.passes.processor import check_bytes, threads
from fastmux.passes.runtimes.exported import ExportedRuntime


class OnnxRuntime(ExportedRuntime):
    """An exported model; see `fastmux.passes.runtimes.Runtime`.

    Args:
        folder: What ``fastmux export`` wrote.
        num_threads: Threads of a pass; as many as OMP_NUM_THREADS says, or as there are processors, if None.

    Raises:
        ValueError: The folder is damaged or of another version, or this processor cannot run its precision.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: Path, num_threads: int | None = None):
        super().__init__(folder)
        import onnxruntime

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

    @staticmethod
    def check(precision: str) -> None:
        """See `ExportedRuntime`."""
        with of_extra("onnx", "a model in ONNX Runtime"):
            importlib.import_module("onnxruntime")
        if precision == "int8":
            check_bytes()

    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """See `Runtime`."""
        given = {name: inputs[name] if name in inputs else np.zeros_like(inputs["input_ids"]) for name in self._names}
        (logits,) = self._session.run(None, given)
        return lambda: logits
