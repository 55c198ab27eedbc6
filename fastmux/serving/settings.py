"""How a model is served."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.labelling.settings import DTYPES, EXECUTIONS, RUNTIMES
from fastmux.passes.runtimes.record import PRECISIONS
from fastmux.settings import check_fields, integer, number, one_of


@dataclass(frozen=True)
class ServingSettings:
    """How a model is served.

    Attributes:
        max_length: The most tokens of a row, never more than ``batch_tokens``. By default as many as the model has
            room for.
        truncation: Cut rows that are longer than ``max_length``; without it they are answered with an error. A model
            that embeds always cuts, as sentence-transformers does.
        copies: How many slots of a multiplexed model each row takes, unless its request says otherwise.
        min_confidence: Rows of which the model is less sure than this go through ``fallback``. By default what
            ``calibrate`` has put into the model's folder.
        max_wait_ms: How many milliseconds a row waits, at most, for others to fill its group while the model is idle.
        batch_tokens: The most positions of one pass of the encoder, padding included. By default 1024 on a CPU and
            65536 on a GPU.
        max_concurrent_requests: How many requests are answered at the same time. More are refused at once, with status
            429 and Retry-After.
        max_rows_per_request: The most rows of one request. A longer list is refused with status 413.
        max_queued_rows: How many rows wait for the model. Requests for more are refused with status 429.
        max_payload_bytes: The most bytes of one request. A larger one is refused with status 413.
        read_timeout: How many seconds a client may take to send its request.
        runtime: What runs the model: torch; onnxruntime on a CPU; ctranslate2 on a CPU, for plain encoders; or auto,
            the fastest of them here that changes no more than 2 % of the labels. By default torch, or what an exported
            model was exported for.
        precision: The precision of the matrices: float32, or int8 outside of torch. By default float32; auto takes any.
        dtype: The dtype of the weights in torch: float32, bfloat16 or float16. By default float32 on a CPU, bfloat16
            on a GPU.
        device: Where the model runs, as in torch: "cpu", "cuda:1". By default the first GPU, if there is one.
        torch_compile: Compile the model with torch.compile before the server is ready, which takes minutes.
        execution: How passes run in torch on a GPU: captured, small ones as CUDA graphs, launched all at once; or
            eager. By default captured, unless the model is compiled.
    """

    max_length: int | None = integer(None, 1)
    truncation: bool = False
    copies: int = integer(1, 1)
    min_confidence: float | None = number(None, 0, 1)
    max_wait_ms: float = number(10.0)
    batch_tokens: int | None = integer(None, 1)
    max_concurrent_requests: int = integer(512, 1)
    max_rows_per_request: int = integer(512, 1)
    max_queued_rows: int = integer(8192, 1)
    max_payload_bytes: int = integer(2_000_000, 1)
    read_timeout: float = number(10.0, above=True)
    runtime: str | None = one_of(None, RUNTIMES)
    precision: str | None = one_of(None, PRECISIONS)
    dtype: str | None = one_of(None, DTYPES)
    device: str | None = None
    torch_compile: bool = False
    execution: str | None = one_of(None, EXECUTIONS)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_rows_per_request > self.max_queued_rows:
            raise ValueError(
                f"max_rows_per_request is {self.max_rows_per_request}, more than max_queued_rows = "
                f"{self.max_queued_rows}: such a request would never be taken"
            )
