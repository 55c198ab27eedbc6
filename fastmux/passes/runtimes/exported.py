"""What the runtimes of exported models have in common: all that the record in the folder says."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fastmux.passes.runtimes.record import RuntimeRecord


class ExportedRuntime:
    """A runtime whose model ``fastmux export`` wrote; see `fastmux.passes.runtimes.Runtime`.

    A subclass loads the model in ``__init__``, runs it in ``start``, and says in ``check`` what it needs.

    Raises:
        ValueError: The folder is damaged or of another version, or this processor cannot run its precision.
        ImportError: The runtime is not installed.
    """

    def __init__(self, folder: Path):
        self.record = record = RuntimeRecord.load(folder)
        self.check(record.precision)
        self.layout, self.per_token = record.layout, record.per_token
        self.num_instances = record.layout.rows
        self.num_labels: int = len(record.labels) if record.embedding is None else record.embedding["size"]
        self.weights = record.weights
        self.problem_type, self.pad_token_id = record.problem_type, record.pad_token_id

    @staticmethod
    def check(precision: str) -> None:
        """Whether it runs here, in that precision.

        Raises:
            ValueError: This processor cannot run the precision.
            ImportError: The runtime is not installed.
        """
        raise NotImplementedError

    def prepare(self, length: int, positions: int) -> None:
        """See `Runtime`: there is nothing to do."""

    def ready(self) -> contextlib.AbstractContextManager[None]:
        """See `Runtime`."""
        return contextlib.nullcontext()
