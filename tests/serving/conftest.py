"""Servers of tiny models, in the process of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field

import classifiers
import httpx2
import pytest

from fastmux.serving.app import create_app
from fastmux.serving.service import Service

config, tokenizer, models = classifiers.config, classifiers.tokenizer, classifiers.models
folders, texts = classifiers.folders, classifiers.texts


@dataclass
class Passes:
    """What the model was run on, pass by pass: the slots, and the lengths of the rows. Closed, it holds every pass."""

    slots: list[list[list[int]]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    broken: set[int] = field(default_factory=set)

    def watch(self, service: Service) -> None:
        label = service.labeller.label

        def watched(rows, slots, all_scores, again):
            self.slots.append(slots.tolist())
            self.lengths.append([row.length for row in rows])
            assert self.gate.wait(20)
            if self.broken & {row.length for row in rows}:
                raise RuntimeError("broken on purpose")
            return label(rows, slots, all_scores, again)

        service.labeller.label = watched
        self.gate.set()


@dataclass
class Server:
    app: object
    service: Service
    client: httpx2.AsyncClient
    passes: Passes

    async def ask(self, inputs, status: int = 200, tenant: str | None = None, **options):
        """The answer to a request, as JSON."""
        headers = {} if tenant is None else {"X-Tenant": tenant}
        answer = await self.client.post("/predict", json={"inputs": inputs, **options}, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def together(self, inputs, **options):
        """Requests of one row each, at the same moment."""
        return await asyncio.gather(*(self.ask(row, **options) for row in inputs))

    async def until(self, condition) -> None:
        """Wait until something is so."""
        for _ in range(4000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("never so")

    async def metric(self, line: str) -> float:
        """The number behind a line of /metrics; 0 where there is no such line."""
        found = (await self.client.get("/metrics")).text
        return next((float(row.rpartition(" ")[2]) for row in found.splitlines() if row.startswith(line + " ")), 0.0)


@contextlib.asynccontextmanager
async def running(model, tokenizer, ready: bool = True, **options):
    app = create_app(model, tokenizer, **options)
    service, passes = app.state.service, Passes()
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        server = Server(app, service, client, passes)
        if ready:
            await server.until(lambda: service.state == "ready")
            passes.watch(service)
        yield server
        passes.gate.set()


@pytest.fixture(name="running")
def _running():
    return running


@pytest.fixture
def serve(models, tokenizer):
    """``serve(test, "tmux", ...)`` runs an async function with a server of that model."""

    def run(test, name="tmux", **options):
        async def whole():
            async with running(models[name], tokenizer, **options) as server:
                await test(server)

        asyncio.run(whole())

    return run
