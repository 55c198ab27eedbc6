"""CTranslate2, on a CPU: a plain encoder that ``fastmux export`` wrote; its head is NumPy's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open

from fastmux.distribution import of_extra
from fastmux.passes.processor import threads
from fastmux.passes.runtimes.exported import ExportedRuntime

#: Of an exported folder: the folder of CTranslate2's files, and the file of the head.
MODEL_FOLDER, HEAD = "ctranslate2", "head.safetensors"
#: Rows are padded to so many positions, at least. In narrower ones attention adds up in another order, by the width of
#: the pass, and where that moves a number across the edge between two bytes, an answer in 8 bits moves visibly.
LEAST_WIDTH = 16
#: The head multiplies blocks of so many rows: a product rounds by its shape, which would be that of the pass.
_BLOCK = 64
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


class CTranslate2Runtime(ExportedRuntime):
    """An exported encoder; see `fastmux.passes.runtimes.Runtime`.

    Args:
        folder: What ``fastmux export --runtime ctranslate2`` wrote.
        num_threads: Threads of a pass; as many as OMP_NUM_THREADS says, or as there are processors, if None.

    Raises:
        ValueError: The folder is damaged or of another version, or this processor cannot run its precision.
        ImportError: ctranslate2 is not installed.
    """

    def __init__(self, folder: Path, num_threads: int | None = None):
        super().__init__(folder)
        import ctranslate2

        self._view = ctranslate2.StorageView.from_array
        try:
            self._encoder = ctranslate2.Encoder(
                str(folder / MODEL_FOLDER),
                device="cpu",
                compute_type=self.record.precision,
                intra_threads=num_threads or threads(),
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"CTranslate2 does not take {self.record.file}: {error}") from error
        self._head = _layers(folder / HEAD)

    @staticmethod
    def check(precision: str) -> None:
        """See `ExportedRuntime`."""
        with of_extra("ctranslate2", "a model in CTranslate2"):
            ctranslate2 = importlib.import_module("ctranslate2")
        there = ctranslate2.get_supported_compute_types("cpu")
        if precision not in there:
            raise ValueError(
                f"precision is {precision!r}, which CTranslate2 does not run on this processor; expected one of "
                f"{', '.join(map(repr, sorted(there)))}"
            )

    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """See `Runtime`."""
        ids, lengths = inputs["input_ids"].astype(np.int32), inputs["attention_mask"].sum(1).astype(np.int32)
        types = inputs.get("token_type_ids", np.zeros_like(ids)).tolist()
        found = self._encoder.forward_batch(self._view(ids), self._view(lengths), types)
        states = np.asarray(found.last_hidden_state)
        states = states if self.per_token else states[:, 0]
        for weight, bias, activation in self._head:
            states = ACTIVATIONS[activation](_product(states, weight) + bias)
        return lambda: states


def _product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x (..., d) times a matrix (d, C); a row's result does not depend on how many others there are."""
    rows = x.reshape(-1, x.shape[-1])
    count = -len(rows) % _BLOCK
    blocks = np.pad(rows, ((0, count), (0, 0))).reshape(-1, _BLOCK, x.shape[-1])
    return (blocks @ weight).reshape(-1, weight.shape[1])[: len(rows)].reshape(*x.shape[:-1], -1)


def _layers(file: Path) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """The matrix (in, out), the bias and the activation of each layer of a head."""
    with safe_open(file, framework="numpy") as stored:
        named = (stored.metadata() or {}).get("activations", "").split()
        return [
            (np.ascontiguousarray(stored.get_tensor(f"{i}.weight").T), stored.get_tensor(f"{i}.bias"), activation)
            for i, activation in enumerate(named)
        ]
