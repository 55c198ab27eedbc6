"""Requests to /predict, and what is common to the bodies of requests."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, WithJsonSchema

_Asked = TypeVar("_Asked", bound=BaseModel)

_ROW = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "properties": {"text": {"type": "string"}, "text_pair": {"type": "string"}}},
        {"type": "object", "properties": {"words": {"type": "array", "items": {"type": "string"}}}},
    ]
}
#: Rows are checked one by one, so that a malformed row fails alone. This schema documents what they should be.
Inputs = Annotated[Any, WithJsonSchema({"anyOf": [*_ROW["anyOf"], {"type": "array", "items": _ROW, "minItems": 1}]})]


class PredictRequest(BaseModel):
    """A row or a list of rows, and how to label them."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": "a fine film"}, {"inputs": ["a fine film", "dull"]}]}
    )
    rows_field: ClassVar[str] = "inputs"

    inputs: Inputs = Field(
        description="A row, or a list of rows that are answered in the same order. A row is a text; for a model that "
        "labels rows it may be {text, text_pair}, for one that labels tokens {words}."
    )
    copies: StrictInt | None = Field(
        None,
        description="How many slots of a multiplexed model each row takes, from 1 to N. With N a row is alone in its "
        "group and its answer depends on no other row. If null, the server's setting.",
    )
    all_scores: StrictBool = Field(False, description="Give the scores of all labels, not only of the best one.")
    details: StrictBool = Field(
        False,
        description="Say how full the row's group was, as `group`: {rows, room}; and, if the server has a fallback, "
        "whether it answered the row, as `fallback`.",
    )


class Problem(BaseModel):
    """Why a request has no answer."""

    detail: str


_PROBLEMS = {
    408: "The request took too long to arrive.",
    413: "The request has too many bytes, or rows.",
    422: "The request is malformed, or none of its rows can be answered.",
    429: "The server is busy; `Retry-After` says when to ask again.",
    500: "The model failed on every row.",
    503: "The server is warming up or shutting down.",
}
RESPONSES: dict = {status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()}


class Malformed(ValueError):
    """The body of a request is malformed; ``param`` is its first field that is."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param


def parse(body: bytes, kind: type[_Asked]) -> _Asked:
    """Parse the body of a request.

    Raises:
        Malformed: It is; the message says why.
    """
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        found = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
        problems = "; ".join(f"{where or 'the request'}: {message}" for where, message in found)
        known = ", ".join(kind.model_fields)
        raise Malformed(f"{problems} (expected a JSON object with {known})", found[0][0] or None) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request is not JSON: {error}") from error
