"""What is not answered says why, at once, and holds up nobody."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

import fastmux
from fastmux.serving.app import create_app
from fastmux.serving.settings import ServingSettings

LONG = " ".join(["w1"] * 40)


def post(body: bytes, **headers) -> dict:
    return {"content": body, "headers": headers}


MALFORMED = [
    (b"", "the request is not JSON"),
    (b"{", "the request is not JSON"),
    (b"\xff", "the request is not JSON"),
    (b"[" * 100_000, "the request is not JSON"),
    (b"3", "expected a JSON object with inputs, copies, all_scores, details"),
    (b'["w1"]', "expected a JSON object"),
    (b"{}", "inputs: Field required"),
    (b'{"inputs": "w1", "input": "w1"}', "input: Extra inputs are not permitted"),
    (b'{"inputs": "w1", "copies": "2"}', "copies: Input should be a valid integer"),
    (b'{"inputs": "w1", "copies": 5}', "copies is 5, expected an integer from 1 to num_instances = 4"),
    (b'{"inputs": "w1", "copies": 0}', "copies is 0, expected an integer from 1 to num_instances = 4"),
    (b'{"inputs": "w1", "all_scores": 1}', "all_scores: Input should be a valid boolean"),
    (b'{"inputs": []}', "inputs is an empty list, expected a row or a list of at least one row"),
    (b'{"inputs": ""}', "the text is empty"),
    (b'{"inputs": null}', "a row must be a text or"),
    (b'{"inputs": "a\\u0000"}', "the text holds a NUL"),
    (b'{"inputs": "\\ud800"}', "the text holds half a character"),
    (b'{"inputs": {"words": ["w1"]}}', "a row must be a text or"),
]


def test_malformed_requests(serve):
    async def test(server):
        for body, reason in MALFORMED:
            answer = await server.client.post("/predict", content=body)
            assert answer.status_code == 422 and reason in answer.json()["detail"], body[:50]
        assert not server.passes.slots, "none of them costs a pass"
        assert await server.metric('fastmux_requests_total{status="422"}') == len(MALFORMED)

    serve(test)


def test_a_malformed_row_fails_alone(serve, texts):
    async def test(server):
        good, bad, other = await asyncio.gather(
            server.ask(texts[0]), server.ask("", status=422), server.ask([texts[1], None, LONG])
        )
        assert "label" in good and bad == {"detail": "the text is empty"} and "label" in other[0]
        assert "a row must be" in other[1]["error"] and "has 42 tokens, the limit is 32" in other[2]["error"]
        none = await server.ask(["", None], status=422)
        assert [list(row) for row in none] == [["error"], ["error"]]
        assert await server.metric('fastmux_rows_total{outcome="malformed"}') == 5

    serve(test)


@pytest.mark.parametrize("name", ["plain", "tmux", "tagger"])
def test_a_row_that_is_too_long_is_cut_or_refused_by_one_rule(serve, name):
    async def refused(server):
        one, many = await server.ask(LONG, status=422), await server.ask([LONG, "w1"])
        assert one["detail"] == many[0]["error"]
        assert "has 42 tokens, the limit is 32" in one["detail"] and "error" not in many[1]
        if name == "tagger":
            assert "limit is 32" in (await server.ask({"words": LONG.split()}, status=422))["detail"]

    async def cut(server):
        one, many = await server.ask(LONG), await server.ask([LONG, LONG])
        assert one.keys() == many[0].keys() and "error" not in one
        assert max(server.passes.lengths[0]) == 32
        assert (await server.client.get("/info")).json()["settings"]["truncation"] is True

    serve(refused, name)
    serve(cut, name, truncation=True)


def test_a_budget_shorter_than_a_row_is_an_error_and_no_loop(serve):
    async def test(server):
        assert (await server.client.get("/info")).json()["settings"]["max_length"] == 10
        assert "has 12 tokens, the limit is 10" in (await server.ask(" ".join(["w1"] * 10), status=422))["detail"]
        assert "label" in await server.ask(" ".join(["w1"] * 8))

    serve(test, batch_tokens=10)


@pytest.mark.parametrize("declared", [True, False])
def test_a_request_of_too_many_bytes(serve, declared):
    async def test(server):
        body = json.dumps({"inputs": "w1 " * 100}).encode()

        async def parts():
            for start in range(0, len(body), 50):
                yield body[start : start + 50]

        answer = await server.client.post("/predict", content=body if declared else parts())
        assert answer.status_code == 413 and "larger than 200 bytes" in answer.json()["detail"]

    serve(test, max_payload_bytes=200)


def test_a_list_of_too_many_rows(serve):
    async def test(server):
        assert "inputs has 4 rows, the limit is 3" in (await server.ask(["w1"] * 4, status=413))["detail"]
        assert len(await server.ask(["w1"] * 3)) == 3

    serve(test, max_rows_per_request=3)


def test_a_client_that_does_not_send_what_it_announced(serve):
    async def test(server):
        async def slow():
            yield b"{"
            await asyncio.sleep(10)
            yield b"}"

        answer = await server.client.post("/predict", content=slow())
        assert answer.status_code == 408 and "more than 0.05 s to arrive" in answer.json()["detail"]
        assert server.service.in_flight == 0

    serve(test, read_timeout=0.05)


def test_overload_is_refused_at_once(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        taken = [asyncio.create_task(server.ask(text)) for text in texts[:4]]
        await server.until(lambda: server.service.in_flight == 4)
        fastest = 1.0
        for one in (True, False) * 3:  # a row and a list of one are refused alike
            start = time.perf_counter()
            answer = await server.client.post("/predict", json={"inputs": texts[5] if one else [texts[5]]})
            fastest = min(fastest, time.perf_counter() - start)
            assert answer.status_code == 429 and "overloaded" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) >= 1
        server.service.batcher._rate = 2.0  # rows a second
        later = [await server.client.post("/predict", json={"inputs": texts[5]}) for _ in range(4)]
        away = [int(answer.headers["retry-after"]) for answer in later]
        assert away == sorted(away) and away[-1] > away[0], "not all are told to come back at once"
        assert fastest < 0.05, "while the model is busy"
        assert (await server.client.get("/health")).status_code == 200
        assert await server.metric('fastmux_rejected_total{reason="concurrency"}') == 10
        server.passes.gate.set()
        assert all("label" in answer for answer in await asyncio.gather(*taken))
        assert "label" in await server.ask(texts[5])

    serve(test, max_concurrent_requests=4)


def test_what_is_refused_is_not_looked_at(serve, texts, caplog):
    async def test(server):
        server.passes.gate.clear()
        taken = [asyncio.create_task(server.ask(text)) for text in texts[:2]]
        await server.until(lambda: len(server.service.batcher) + len(server.passes.slots) > 1)

        async def never():
            raise AssertionError("the body was read")
            yield b""

        server.service.labeller.tokenise = None
        for _ in range(3):
            answer = await server.client.post("/predict", content=never())
            assert answer.status_code == 429 and "the queue of rows is full" in answer.json()["detail"]
        assert "refused" not in caplog.messages
        server.service._tell()
        assert [line.requests for line in caplog.records if line.message == "refused"] == [3], "one line for all"
        server.passes.gate.set()
        await asyncio.gather(*taken)

    with caplog.at_level("INFO", "fastmux"):
        serve(test, max_queued_rows=1, max_rows_per_request=1, name="plain")


def test_a_crowd_is_refused_while_those_that_were_taken_have_still_to_be_read(serve, texts):
    async def test(server):
        answers = []

        async def ask():
            answers.append((await server.client.post("/predict", json={"inputs": texts[0]})).status_code)

        await asyncio.gather(*(ask() for _ in range(100)))
        assert answers == [429] * 60 + [200] * 40

    serve(test, max_concurrent_requests=40)


def test_no_more_rows_wait_than_are_allowed(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        first = asyncio.create_task(server.ask(texts[:2]))
        await server.until(lambda: server.passes.slots)
        second = asyncio.create_task(server.ask(texts[2:5]))
        await server.until(lambda: len(server.service.batcher) == 3)
        assert "overloaded" in (await server.ask(texts[5:7], status=429))["detail"]
        third = asyncio.create_task(server.ask(texts[5]))
        await server.until(lambda: len(server.service.batcher) == 4)
        server.passes.gate.set()
        assert [len(answer) for answer in await asyncio.gather(first, second)] == [2, 3] and await third

    serve(test, max_queued_rows=4, max_rows_per_request=4)


BAD = [
    ({"max_length": 0}, "max_length is 0, expected an integer of at least 1"),
    ({"max_length": 33}, "max_length is 33, but the model has room for 32 tokens"),
    ({"max_length": 20, "batch_tokens": 10}, "max_length is 20, more than a pass holds: batch_tokens = 10"),
    ({"copies": 5}, "copies is 5, expected an integer from 1 to num_instances = 4"),
    ({"copies": True}, "copies is True, expected an integer of at least 1"),
    ({"max_wait_ms": -1}, "max_wait_ms is -1, expected a number"),
    ({"max_wait_ms": float("nan")}, "max_wait_ms is nan, expected a number"),
    ({"read_timeout": 0}, "read_timeout is 0, expected a number"),
    ({"max_concurrent_requests": 0}, "max_concurrent_requests is 0"),
    ({"max_rows_per_request": 9, "max_queued_rows": 8}, "max_rows_per_request is 9, more than max_queued_rows = 8"),
    ({"dtype": "int8"}, "dtype is 'int8', expected one of 'float32', 'bfloat16', 'float16'"),
    ({"max_wait": 3}, "create_app has no option max_wait, expected one of max_length, "),
    ({"settings": ServingSettings(), "copies": 2}, "copies given beside settings; set it there"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_settings_out_of_range(models, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        create_app(models["tmux"], tokenizer, **options)


def test_what_is_no_classifier(config, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"model is a TMux, expected a class that ends in"):
        create_app(fastmux.TMux.from_backbone(config, 2), tokenizer)
    with pytest.raises(ValueError, match="cannot be loaded"):
        create_app(tmp_path / "nowhere")
