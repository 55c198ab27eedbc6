"""Requests to /v1/embeddings, as OpenAI's clients send them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, WithJsonSchema
from starlette.responses import Response

from fastmux.embedding.embedder import Embedder
from fastmux.labelling.memory_rows import Tokenised
from fastmux.serving.refused import Refused
from fastmux.serving.requests import parse

_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_INPUT = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}

_EXPECTED = "a text, a list of texts, the token ids of a text, or a list of them"


class EmbeddingRequest(BaseModel):
    """Texts, or token ids, and how their vectors are sent."""

    # Clients of other servers send fields of their own, which change nothing here.
    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"input": ["a fine film", "dull"]}]})
    rows_field: ClassVar[str] = "input"

    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        description="A text, a list of texts, the token ids of a text, or a list of them. Token ids are taken as they "
        "are: without a prompt, and with no special token added."
    )
    model: str | None = Field(None, description="Accepted; a server has one model.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or the base64 of little-endian float32."
    )
    dimensions: StrictInt | None = Field(
        None, ge=1, description="Keep so many first numbers, of length 1 if the model's vectors have it."
    )
    user: str | None = Field(None, description="Accepted.")
    prompt_name: str | None = Field(None, description="The model's prompt that is put before texts.")


class EmbeddingEndpoint:
    """What /v1/embeddings does with a request."""

    name, openai = "embeddings", True

    def __init__(self, embedder: Embedder):
        self.embedder = embedder

    def parse(self, body: bytes) -> EmbeddingRequest:
        """See `fastmux.serving.service.Endpoint`."""
        asked = parse(body, EmbeddingRequest)
        size = self.embedder.vector_size
        if asked.dimensions is not None and asked.dimensions > size:
            raise Refused(400, f"dimensions is {asked.dimensions}, expected 1 to {size}", param="dimensions")
        return asked

    def rows(self, asked: EmbeddingRequest) -> list:
        """The texts and token ids."""
        rows = asked.input
        if isinstance(rows, str) or _are_ids(rows):
            rows = [rows]
        if not isinstance(rows, list) or not rows:
            raise Refused(400, f"input is {str(rows)[:100]!r}, expected {_EXPECTED}", param="input")
        for index, row in enumerate(rows):
            if not isinstance(row, str) and not _are_ids(row):
                raise Refused(400, f"input[{index}] is {str(row)[:100]!r}, expected {_EXPECTED}", param="input")
        return rows

    def tokenise(self, asked: EmbeddingRequest, rows: list) -> list[Tokenised | ValueError]:
        """Their tokens.

        Raises:
            Refused: One has no vector, so that none is sent: a client takes the n-th vector for the n-th text.
        """
        try:
            found = self.embedder.tokenise(rows, asked.prompt_name)
        except ValueError as error:
            raise Refused(400, str(error), param="prompt_name") from error
        for index, row in enumerate(found):
            if not isinstance(row, Tokenised):
                raise Refused(400, f"input[{index}]: {row}", param="input")
        return found

    def response(self, asked: EmbeddingRequest, rows: list, found: Sequence, answers: Sequence) -> Response:
        """The vectors in the order of the texts, and how many tokens were read."""
        data = []
        for index, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                raise Refused(500, f"input[{index}]: {answer}", param="input")
            vector = self.embedder.cut(answer.columns["embedding"], asked.dimensions)
            sent: Any = vector.tolist()
            if asked.encoding_format == "base64":
                sent = base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
            data.append({"object": "embedding", "index": index, "embedding": sent})
        tokens = int(np.sum([row.length for row in found]))
        content = {
            "object": "list",
            "data": data,
            "model": asked.model or self.embedder.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def _are_ids(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and all(type(one) is int for one in row)
