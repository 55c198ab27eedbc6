"""A server on a GPU captures its passes before it says that it is ready, and no request waits for that."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from graphs import FakeGraphs

from fastmux.labelling import devices, tokenized_model


@pytest.fixture
def graphs(monkeypatch):
    """The graphs of the server's models, which here run on the CPU."""
    made, place = [], devices.torch_placement
    monkeypatch.setattr(tokenized_model, "CudaGraphs", lambda: made.append(FakeGraphs()) or made[-1])

    def placed(device, dtype, batch_tokens, torch_compile, execution):
        return replace(place(device, dtype, batch_tokens, torch_compile), captured=execution != "eager")

    monkeypatch.setattr(devices, "torch_placement", placed)
    return made


@pytest.mark.parametrize("name", ["tmux", "tmux_tagger"])
def test_all_sizes_are_captured_before_the_server_is_ready(
    name, models, tokenizer, running, graphs, texts, monkeypatch
):
    gate, capture = threading.Event(), FakeGraphs.capture
    monkeypatch.setattr(FakeGraphs, "capture", lambda self, run: gate.wait(20) and capture(self, run))

    async def test():
        async with running(models[name], tokenizer, ready=False, batch_tokens=100, max_wait_ms=1.0) as server:
            (own,) = graphs
            await asyncio.sleep(0.1)
            assert (await server.client.get("/health")).status_code == 503 and not own.results
            gate.set()
            await server.until(lambda: server.service.state == "ready")
            assert (await server.client.get("/health")).status_code == 200
            captured, before = len(own.results), len(own.launched)
            server.passes.watch(server.service)
            await server.together(texts, copies=1)
            await server.ask(texts[:9], copies=2)
            launched = len(own.launched) - before
            assert captured == len(own.results) and launched == len(server.passes.slots) > 1, (captured, launched)

    asyncio.run(test())


def test_the_fallback_is_captured_too_and_answers_are_those_of_eager_passes(models, tokenizer, running, graphs, texts):
    async def answers(**options):
        async with running(
            models["tmux"], tokenizer, fallback=models["plain"], min_confidence=0.7, **options
        ) as server:
            return [await server.ask(text) for text in texts[:12]]

    captured = asyncio.run(answers())
    assert len(graphs) == 2 and all(own.launched for own in graphs)
    found = asyncio.run(answers(execution="eager", device="cpu"))
    assert [row["label"] for row in captured] == [row["label"] for row in found]
    assert [row["score"] for row in captured] == pytest.approx([row["score"] for row in found], abs=1e-4)
