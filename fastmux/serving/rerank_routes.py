"""The routes that order texts by their score beside a query."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from fastmux.serving.openai_routes import RERANKS, body_of
from fastmux.serving.openai_routes import RESPONSES as OPENAI_RESPONSES
from fastmux.serving.requests import RESPONSES
from fastmux.serving.rerank_requests import DocumentsRequest, RerankEndpoint, TextsRequest
from fastmux.serving.service import Service

#: Where text-embeddings-inference has it.
RERANK = "/rerank"


def add_rerank(app: FastAPI, service: Service) -> None:
    """Add /rerank, /v1/rerank and /v2/rerank; of a model that gives pairs no score they refuse, and say why."""
    plain, openai = (RerankEndpoint(service.labeller, said) for said in (False, True))
    shown = plain.refusal is None

    @app.post(
        RERANK,
        summary="Texts by their score beside a query",
        response_model=None,
        include_in_schema=shown,
        responses=RESPONSES,
        openapi_extra=body_of(TextsRequest),
    )
    async def rerank(request: Request) -> Response:
        """The index and score of each text, the best first. With `documents` in place of `texts` it answers as
        /v1/rerank does. If a text cannot be scored, the whole request fails and says which."""
        return await service.respond(request, plain)

    for route in RERANKS:

        @app.post(
            route,
            summary="Documents by their score beside a query",
            response_model=None,
            include_in_schema=shown,
            responses=OPENAI_RESPONSES,
            openapi_extra=body_of(DocumentsRequest),
        )
        async def rerank_documents(request: Request) -> Response:
            """The index and score of each document, the best first, as Cohere and Jina give them. If a document cannot
            be scored, the whole request fails and says which."""
            return await service.respond(request, openai)
