"""The HTTP interface: an ASGI app, for `fastmux serve` or any other ASGI server."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import fastmux
from fastmux.embedding.embedder import Embedder
from fastmux.embedding.loading import embeds
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.loading import Model
from fastmux.serving.embedding_requests import EmbeddingEndpoint
from fastmux.serving.openai_routes import OPENAI_ROUTES, add_embeddings, add_models
from fastmux.serving.predicting import PredictEndpoint
from fastmux.serving.requests import RESPONSES, PredictRequest, Problem
from fastmux.serving.rerank_routes import RERANK, add_rerank
from fastmux.serving.service import Service
from fastmux.serving.settings import ServingSettings
from fastmux.settings import settings_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DESCRIPTION = """\
Labels, scores or embeds text. Rows of many requests share passes of the model, and groups of a multiplexed model; rows
of one group influence one another a little. Rows with different values of the header `X-Tenant` never share a group,
and with `copies` = N a row has a group for itself."""

_PREDICT = "/predict"
#: Swagger UI for the page /docs: files of the package fastapi-offline (MIT; Swagger UI: Apache 2.0). FastAPI's own page
#: loads them from the network, which a server may not reach.
_ASSETS = "/docs-assets"
_PAGE = Path(__file__).with_name("page.html")


class _App(FastAPI):
    """Refuses a request that the server has no room for, before anything of it is read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "POST"
        path = scope["path"].removeprefix(scope.get("root_path", "")) if asked else None
        if path not in (_PREDICT, RERANK, *OPENAI_ROUTES):
            return await super().__call__(scope, receive, send)
        service: Service = self.state.service
        if (refusal := service.refusal(path in OPENAI_ROUTES)) is not None:
            return await refusal(scope, receive, send)
        async with service.place():
            await super().__call__(scope, receive, send)


def create_app(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None = None,
    settings: ServingSettings | None = None,
    *,
    fallback: Model | None = None,
    texts: Iterable | None = None,
    **options,
) -> FastAPI:
    """An app that serves a model: ``/predict``, and ``/rerank`` of one that gives pairs one score; or
    ``/v1/embeddings`` of one that embeds; ``/v1/models``, ``/health``, ``/metrics``, ``/info``, ``/docs`` and a page
    at ``/``.

    Args:
        model: A classifier of sequences or tokens: a T-MUX, a joined model or a plain encoder; or a model
            that embeds; or its name or folder.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        settings: The settings; or give the fields of `ServingSettings` as ``options``.
        fallback: Another model, for the rows of which the first one is less sure than ``min_confidence``.
        texts: As for `fastmux.Labeller`.

    Returns:
        The app. It warms the model up when a server starts it, and answers 503 until that is done.

    Raises:
        ValueError: An option is out of range, or the model is no classifier or cannot be loaded.

    Example:
        >>> from fastapi.testclient import TestClient
        >>> from fastmux.serving.app import create_app
        >>> import fastmux
        >>> from transformers import BertConfig, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
        >>> with TestClient(create_app(model, tokenizer)) as client:
        ...     while client.get("/health").status_code == 503:
        ...         pass
        ...     answer = client.post("/predict", json={"inputs": ["fine film", "film"]})
        >>> answer.status_code, [sorted(row) for row in answer.json()]
        (200, [['label', 'score'], ['label', 'score']])
    """
    settings = settings_of(ServingSettings, settings, options, "create_app")
    names = ["max_length", "truncation", "min_confidence", "batch_tokens"]
    names += ["runtime", "precision", "dtype", "device", "torch_compile", "execution"]
    options = {name: getattr(settings, name) for name in names}
    labeller: Labeller | Embedder
    if embeds(model):
        labeller = _embedder(model, tokenizer, fallback, texts, options)
    else:
        labeller = Labeller(model, tokenizer, fallback=fallback, texts=texts, **options)
    labeller.check_copies(settings.copies)
    service = Service(labeller, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = _App(
        title="fastmux",
        description=_DESCRIPTION,
        version=fastmux.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service

    if isinstance(labeller, Labeller):
        _add_predict(app, service, PredictEndpoint(labeller))
    else:
        add_embeddings(app, service, EmbeddingEndpoint(labeller))
    add_rerank(app, service)
    add_models(app, labeller.name)

    @app.get("/health", responses={503: {"model": Problem}})
    async def health() -> Response:
        """Status 200 once the model is warm, 503 before and while the server ends."""
        ready = service.state == "ready"
        return JSONResponse({"status": "ready"} if ready else {"detail": service.state}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info")
    async def info() -> dict:
        """The model, its labels, the limits and the versions."""
        return _info(service)

    app.mount(_ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).with_name("static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative addresses still work behind a proxy that adds a prefix.
        assets = _ASSETS.removeprefix("/")
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
        )

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        # The page labels rows; of a model that embeds, the interface's own page takes its place.
        return HTMLResponse(_PAGE.read_text(encoding="utf-8")) if isinstance(labeller, Labeller) else await docs()

    return app


def _add_predict(app: FastAPI, service: Service, endpoint: PredictEndpoint) -> None:
    @app.post(
        _PREDICT,
        summary="Labels of a row, or of every row of a list",
        response_model=None,
        responses=RESPONSES,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": PredictRequest.model_json_schema()}},
            },
            "parameters": [
                {
                    "name": "X-Tenant",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "Rows with another value never share a group with these.",
                }
            ],
        },
    )
    async def predict(request: Request) -> Response:
        """One row gets one object; a list of rows gets a list of answers in the same order.

        A row that cannot be labelled gets an `error` in its place and stops no other row. The status is a failure only
        if no row has an answer.
        """
        return await service.respond(request, endpoint)


def _embedder(model: Any, tokenizer: Any, fallback: Any, texts: Any, options: dict[str, Any]) -> Embedder:
    """The model that embeds, of which nothing is asked that only classifiers do."""
    given = {"fallback": fallback, "min_confidence": options["min_confidence"], "texts": texts}
    if wrong := next((name for name, value in given.items() if value is not None), None):
        raise ValueError(f"{wrong} is given, but the model embeds; it is for classifiers alone")
    own = {name: value for name, value in options.items() if name not in ("min_confidence", "truncation")}
    return Embedder(model, tokenizer, **own)


def _info(service: Service) -> dict:
    labeller, settings = service.labeller, service.settings
    placement = labeller.placement
    limits = vars(settings) | {"max_length": labeller.max_length, "batch_tokens": placement.batch_tokens}
    where = {"device": placement.device, "dtype": placement.dtype, "runtime": placement.runtime}
    return {
        "model": labeller.name,
        "model_class": labeller.model_class,
        "num_instances": labeller.num_instances,
        "instances_are": labeller.instances_are,
        "rows_per_group": labeller.rows_per_group,
        "fallback": service.fallback(),
        "labels": labeller.labels,
        "labels_of": "tokens" if labeller.per_token else "rows",
        "settings": limits | where,
        "versions": {
            "fastmux": fastmux.__version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "fastapi")},
        },
    }
