"""Why a request is refused, and the response that says so."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

#: What OpenAI calls the kinds of errors, by status; 4xx are "invalid_request_error".
_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error"}
_CODES = {413: "request_too_large", 429: "rate_limit_exceeded", 500: "model_error", 503: "not_ready"}


class Refused(Exception):
    """A request that is refused: with which status, why, after how many seconds to try again, and which field of it is
    the cause."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None, param: str | None = None):
        super().__init__(reason)
        self.status, self.reason, self.retry_after, self.param = status, reason, retry_after, param

    def response(self, openai: bool = False) -> Response:
        """The response to its client; in OpenAI's shape, if the route is one of theirs."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if not openai:
            return JSONResponse({"detail": self.reason}, self.status, headers)
        status = 400 if self.status == 422 else self.status
        error = {
            "message": self.reason,
            "type": _TYPES.get(status, "invalid_request_error"),
            "param": self.param,
            "code": _CODES.get(status),
        }
        return JSONResponse({"error": error}, status, headers)
