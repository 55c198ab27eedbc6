"""The routes that OpenAI's clients and those of embedding servers know."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel

from fastmux.serving.embedding_requests import EmbeddingEndpoint, EmbeddingRequest
from fastmux.serving.service import Service

_EMBEDDINGS = "/v1/embeddings"
#: Cohere's clients of either version, and Jina's.
RERANKS = ("/v1/rerank", "/v2/rerank")
#: Routes that take requests for the model, and refuse them in OpenAI's shape.
OPENAI_ROUTES = (_EMBEDDINGS, *RERANKS)


class OpenAIError(BaseModel):
    """What is wrong, of which kind it is, and the field that is its cause."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """Why a request has no answer, as OpenAI says it."""

    error: OpenAIError


_PROBLEMS = {
    400: "The request is malformed, or a text cannot be answered.",
    408: "The request took too long to arrive.",
    413: "The request has too many bytes, or texts.",
    429: "The server is busy; `Retry-After` says when to ask again.",
    500: "The model failed on a text.",
    503: "The server is warming up or shutting down.",
}
RESPONSES: dict = {status: {"model": OpenAIProblem, "description": text} for status, text in _PROBLEMS.items()}


def body_of(kind: type[BaseModel]) -> dict:
    """What OpenAPI says of a body that a route reads itself."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}},
    }


def add_embeddings(app: FastAPI, service: Service, endpoint: EmbeddingEndpoint) -> None:
    """Add /v1/embeddings."""

    @app.post(
        _EMBEDDINGS,
        summary="Vectors of texts",
        response_model=None,
        responses=RESPONSES,
        openapi_extra=body_of(EmbeddingRequest),
    )
    async def embeddings(request: Request) -> Response:
        """A vector for each text, in the same order. If a text has none, the whole request fails and says which."""
        return await service.respond(request, endpoint)


def add_models(app: FastAPI, name: str) -> None:
    """Add /v1/models."""
    created = int(time.time())

    @app.get("/v1/models", summary="The model")
    async def models() -> dict:
        """A list with the one model of this server."""
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": created, "owned_by": "fastmux"}],
        }
