"""What a request to /predict holds, and what is answered."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, WithJsonSchema

_ROW = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "properties": {"text": {"type": "string"}, "text_pair": {"type": "string"}}},
        {"type": "object", "properties": {"words": {"type": "array", "items": {"type": "string"}}}},
    ]
}
#: Rows are looked into one by one, so that a malformed one fails alone; the schema says what they should be.
Inputs = Annotated[Any, WithJsonSchema({"anyOf": [*_ROW["anyOf"], {"type": "array", "items": _ROW, "minItems": 1}]})]


class PredictRequest(BaseModel):
    """A row, or a list of rows, and how they are to be labelled."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": "a fine film"}, {"inputs": ["a fine film", "dull"]}]}
    )

    inputs: Inputs = Field(
        description="A text; of a model that labels rows also {text, text_pair}; of one that labels tokens also "
        "{words}. Or a list of such rows: all of them are answered, in their order."
    )
    copies: StrictInt | None = Field(
        None,
        description="Slots of a multiplexed model that each row takes, from 1 to N; with N a row is alone in its "
        "group, and its answer depends on no other row. The server's setting if null.",
    )
    all_scores: StrictBool = Field(False, description="Every label's score, not the best one alone.")
    details: StrictBool = Field(
        False,
        description="How full the row's group was, as `group`: {rows, room}; and, where the server has a fallback, "
        "whether that has answered the row, as `fallback`.",
    )


class Problem(BaseModel):
    """Why a request has no answer."""

    detail: str


def parse(body: bytes) -> PredictRequest:
    """A request.

    Raises:
        ValueError: it is none; the message says why.
    """
    try:
        return PredictRequest.model_validate(json.loads(body))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'the request'}: {problem['msg']}" for problem in error.errors()
        )
        known = ", ".join(PredictRequest.model_fields)
        raise ValueError(f"{'; '.join(problems)} (expected a JSON object with {known})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not JSON: {error}") from error
