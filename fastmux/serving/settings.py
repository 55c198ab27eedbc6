"""How a model is served."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.labelling.settings import DTYPES, check_choice, check_confidence, check_integer


@dataclass(frozen=True)
class ServingSettings:
    """How a model is served.

    Attributes:
        max_length: tokens of a row; what the model has room for, at most ``batch_tokens``, if None.
        truncation: cut rows that are longer than ``max_length``; otherwise they are an error.
        copies: slots of a multiplexed model that a row takes, where its request says nothing else.
        min_confidence: rows below it go through the fallback model.
        max_wait_ms: milliseconds that a row waits, at most, for others to fill its group while the model is idle.
        batch_tokens: positions, padding counted, that a pass of the encoder takes at most; 1024 on a CPU, 65536 on a
            GPU if None.
        max_concurrent_requests: more are refused at once, with status 429.
        max_rows_per_request: a list of more rows is refused.
        max_queued_rows: rows that wait for the model, at most; requests for more are refused, with status 429.
        max_payload_bytes: of a request.
        read_timeout: seconds that a client may take to send its request.
        dtype: "float32", "bfloat16" or "float16" of the weights; float32 on a CPU, bfloat16 on a GPU if None.
        device: as for torch; the GPU if there is one, if None.
        torch_compile: compile the model, before it says that it is ready.
    """

    max_length: int | None = None
    truncation: bool = False
    copies: int = 1
    min_confidence: float | None = None
    max_wait_ms: float = 10.0
    batch_tokens: int | None = None
    max_concurrent_requests: int = 512
    max_rows_per_request: int = 512
    max_queued_rows: int = 8192
    max_payload_bytes: int = 2_000_000
    read_timeout: float = 10.0
    dtype: str | None = None
    device: str | None = None
    torch_compile: bool = False

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_tokens"):
            check_integer(name, getattr(self, name), 1, optional=True)
        limits = ("max_concurrent_requests", "max_rows_per_request", "max_queued_rows", "max_payload_bytes")
        for name in ("copies", *limits):
            check_integer(name, getattr(self, name), 1)
        check_confidence(self.min_confidence)
        check_choice("dtype", self.dtype, DTYPES)
        for name, least in (("max_wait_ms", "0"), ("read_timeout", "more than 0")):
            value = getattr(self, name)
            known = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not known or not 0 <= value < float("inf") or (name == "read_timeout" and value == 0):
                raise ValueError(f"{name} is {value!r}, expected a number of {least}, or above it")
        if self.max_rows_per_request > self.max_queued_rows:
            raise ValueError(
                f"max_rows_per_request is {self.max_rows_per_request}, more than max_queued_rows = "
                f"{self.max_queued_rows}: such a request would never be taken"
            )
