"""From the start to the end of a server: warm-up, clients that leave, many clients, the last answers."""

from __future__ import annotations

import asyncio
import copy
import gc
import json

import torch
from serving.conftest import running


async def start_request(app, inputs) -> tuple[asyncio.Task, asyncio.Event, list[dict]]:
    """A request as a server passes it on: the task, what makes its client leave, and what is sent to it."""
    left, sent = asyncio.Event(), []
    bodies = [{"type": "http.request", "body": json.dumps({"inputs": inputs}).encode()}]

    async def receive():
        if bodies:
            return bodies.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
    scope |= {"headers": [], "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1)}
    return asyncio.create_task(app(scope | {"root_path": ""}, receive, send)), left, sent


def test_clients_that_left_cost_no_pass(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        first = asyncio.create_task(server.ask(texts[0]))
        await server.until(lambda: server.passes.slots)
        leaving = [await start_request(server.app, texts[1:4]) for _ in range(5)]
        staying = asyncio.create_task(server.ask(texts[4]))
        await server.until(lambda: len(server.service.batcher) == 16)
        for _, left, _ in leaving:
            left.set()
        await asyncio.gather(*(task for task, _, _ in leaving))
        assert len(server.service.batcher) == 1, "before the model is free again"
        server.passes.gate.set()
        await asyncio.gather(first, staying)
        assert len(server.passes.slots) == 2 and len(server.passes.lengths[1]) == 1
        assert await server.metric('fastmux_rows_total{outcome="dropped"}') == 15
        assert await server.metric('fastmux_requests_total{status="499"}') == 5

    serve(test)


def test_a_client_that_is_cancelled_or_leaves_in_a_pass_hurts_nobody(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        task, left, _ = await start_request(server.app, texts[0])
        await server.until(lambda: server.passes.slots)
        cancelled = asyncio.create_task(server.ask(texts[1]))
        await server.until(lambda: len(server.service.batcher) == 1)
        cancelled.cancel()
        left.set()
        await asyncio.gather(task, cancelled, return_exceptions=True)
        assert server.service.in_flight == 0 and len(server.service.batcher) == 0
        server.passes.gate.set()
        assert "label" in await server.ask(texts[2])

    serve(test)


def test_health_and_requests_before_the_model_is_warm(models, tokenizer, texts):
    async def test():
        async with running(models["tmux"], tokenizer, ready=False) as server:
            health = await server.client.get("/health")
            assert health.status_code == 503 and health.json() == {"detail": "warming up"}
            early = await server.client.post("/predict", json={"inputs": texts[0]})
            assert early.status_code == 503 and int(early.headers["retry-after"]) >= 1
            await server.until(lambda: server.service.state == "ready")
            assert (await server.client.get("/health")).json() == {"status": "ready"}
            assert "label" in await server.ask(texts[0])

    asyncio.run(test())


def test_a_model_that_cannot_be_warmed_up_is_never_ready(models, tokenizer):
    broken = copy.deepcopy(models["plain"])
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))

    async def test():
        async with running(broken, tokenizer, ready=False) as server:
            await server.until(lambda: server.service.state != "warming up")
            health = await server.client.get("/health")
            assert health.status_code == 503 and "NaN or infinity" in health.json()["detail"]
            await server.ask("w1", status=503)

    asyncio.run(test())


def test_the_end_answers_what_was_taken(models, tokenizer, texts):
    async def test():
        async with running(models["tmux"], tokenizer, max_wait_ms=60_000.0) as server:
            server.passes.gate.clear()
            tasks = [asyncio.create_task(server.ask(text)) for text in texts[:6]]
            await server.until(lambda: server.service.in_flight == 6 and server.passes.slots)
            server.service.drain()
            health = await server.client.get("/health")
            assert health.status_code == 503 and health.json() == {"detail": "draining"}
            assert await server.ask(texts[6], status=503) == {"detail": "draining"}
            server.passes.gate.set()
        # The end waited for nobody to fill the last group.
        assert all("label" in answer for answer in await asyncio.gather(*tasks))

    asyncio.run(test())


def test_many_clients_leave_nothing_behind(serve, texts):
    async def test(server):
        await server.ask(texts)
        answers = await asyncio.gather(
            *(server.client.post("/predict", json={"inputs": texts[i % 60]}) for i in range(500))
        )
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 100
        assert len(server.service.batcher) == 0 and server.service.in_flight == 0
        await server.until(lambda: len(asyncio.all_tasks()) == 2)  # the batcher's, and this
        del answers
        # The thread of the model answers, then lets go of the rows: 5 ms may pass before it gets its turn to do so.
        server.service.batcher._worker.submit(int).result()
        gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "Waiting"]
        taken = await server.metric('fastmux_requests_total{status="200"}')
        assert taken == statuses.count(200) + 1

    serve(test, max_concurrent_requests=100)


def test_metrics_and_info(serve, texts):
    async def test(server):
        await server.together(texts[:8])
        found = (await server.client.get("/metrics")).text
        for name in ("request_seconds_bucket", "pass_seconds_bucket", "queued_rows", "requests_in_flight"):
            assert f"fastmux_{name}" in found
        assert await server.metric('fastmux_rows_total{outcome="answered"}') == 8
        assert await server.metric("fastmux_request_seconds_count") == 8
        assert await server.metric("fastmux_group_fill_count") == sum(map(len, server.passes.slots))
        assert 0 < await server.metric("fastmux_group_fill_sum") <= sum(map(len, server.passes.slots))
        assert await server.metric("fastmux_pass_seconds_count") == len(server.passes.slots)
        assert await server.metric("fastmux_queued_rows") == await server.metric("fastmux_requests_in_flight") == 0

        info = (await server.client.get("/info")).json()
        assert (info["model"], info["num_instances"], info["labels_of"]) == ("TMuxForSequenceClassification", 4, "rows")
        assert info["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"] and info["versions"]["torch"] == torch.__version__
        assert info["settings"]["max_length"] == 32 and info["settings"]["truncation"] is False

        schema = (await server.client.get("/openapi.json")).json()
        assert set(schema["paths"]) == {"/predict", "/v1/models", "/health", "/metrics", "/info"}
        asked = schema["paths"]["/predict"]["post"]
        assert "inputs" in asked["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert set(asked["responses"]) >= {"200", "413", "422", "429", "503"}

        page = await server.client.get("/")
        assert page.headers["content-type"].startswith("text/html") and "://" not in page.text.replace(
            "http://www.w3", ""
        )

    serve(test)
