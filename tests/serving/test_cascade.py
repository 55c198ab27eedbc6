"""Rows that the model is unsure of are answered by the fallback, in the same server."""

from __future__ import annotations

import asyncio
import statistics
import threading

import pytest
import torch

import fastmux
from fastmux.serving.app import create_app


@pytest.fixture
def sure(models, tokenizer, texts):
    """What the model and the fallback say of every text alone, and a confidence that half of them have."""

    def of(name, behind):
        labeller = fastmux.Labeller(models[name], tokenizer)
        ours = [labeller([text], copies=labeller.num_instances)[0] for text in texts]
        theirs = [fastmux.Labeller(models[behind], tokenizer)([text])[0] for text in texts]
        limits = [row["score"] if "score" in row else min(row["scores"]) for row in ours]
        return ours, theirs, limits, statistics.median(limits)

    return of


def same(answer, expected):
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        assert answer[name] == (pytest.approx(value, abs=2e-5) if name.startswith("score") else value)


@pytest.mark.parametrize(("name", "behind"), [("tmux", "plain"), ("tmux_tagger", "tagger"), ("plain", "tmux")])
def test_each_row_is_answered_by_the_model_that_is_to_answer_it(serve, models, sure, texts, name, behind):
    ours, theirs, limits, limit = sure(name, behind)

    async def test(server):
        copies = server.service.labeller.num_instances
        answers = await server.together(texts, copies=copies, details=True)
        through = [answer.pop("fallback") for answer in answers]
        groups = [answer.pop("group") for answer in answers]
        for answer, unsure, mine, other in zip(answers, through, ours, theirs, strict=True):
            same(answer, other if unsure else mine)
        if name != "tmux_tagger":  # of which special tokens count, too
            assert through == [one < limit for one in limits]
        assert 0 < sum(through) < len(texts) and all(group == {"rows": 1, "room": 1} for group in groups)
        info = (await server.client.get("/info")).json()
        assert info["fallback"]["rows"] == sum(through) == await server.metric("fastmux_fallback_rows_total")
        assert info["fallback"]["share"] == sum(through) / len(texts)
        assert info["fallback"]["min_confidence"] == limit
        many = await server.ask(texts, copies=copies)
        for row, answer in zip(many, answers, strict=True):
            same(row, answer)

    serve(test, name, fallback=models[behind], min_confidence=limit)


def test_a_row_that_is_sure_does_not_wait_for_one_that_is_not(serve, models, sure, texts):
    _, _, limits, limit = sure("tmux", "plain")
    good, bad = (texts[limits.index(end(limits))] for end in (max, min))

    async def test(server):
        label, reached, go_on = server.service.labeller.label, threading.Event(), threading.Event()

        def watched(rows, slots, all_scores, again):
            if again:
                reached.set()
                assert go_on.wait(20)
            return label(rows, slots, all_scores, again)

        server.service.labeller.label = watched
        server.passes.gate.clear()
        first = asyncio.create_task(server.ask(good, copies=4))
        await server.until(lambda: server.passes.slots)
        slow = asyncio.create_task(server.ask(bad, copies=4, details=True))
        fast = asyncio.create_task(server.ask(good, copies=4, details=True))
        await server.until(lambda: len(server.service.batcher) == 2)
        server.passes.gate.set()
        assert (await fast)["fallback"] is False and "label" in await first
        await server.until(reached.is_set)
        assert not slow.done()
        go_on.set()
        assert (await slow)["fallback"] is True

    serve(test, "tmux", fallback=models["plain"], min_confidence=limit)


def test_a_fallback_that_fails_fails_those_rows_alone(serve, models, sure, texts):
    _, _, limits, limit = sure("tmux", "plain")
    good, bad = (texts[limits.index(end(limits))] for end in (max, min))

    async def test(server):
        label = server.service.labeller.label

        def broken(rows, slots, all_scores, again):
            if again:
                raise RuntimeError("broken on purpose")
            return label(rows, slots, all_scores, again)

        server.service.labeller.label = broken
        answers = await server.ask([good, bad], copies=4)
        assert "label" in answers[0] and "broken on purpose" in answers[1]["error"]

    serve(test, "tmux", fallback=models["plain"], min_confidence=limit)


def test_without_a_fallback_nothing_is_said_of_it(serve, texts):
    async def test(server):
        assert (await server.client.get("/info")).json()["fallback"] is None
        assert "fallback" not in await server.ask(texts[0], details=True)

    serve(test)


def test_what_is_wrong_is_said_before_anything_is_loaded(models, tokenizer, config):
    for options, message in (
        ({"min_confidence": 0.5}, "min_confidence is given without fallback"),
        ({"fallback": "nowhere"}, "fallback is given without min_confidence, and the model has no cascade.json"),
        ({"fallback": "nowhere", "min_confidence": 2}, "min_confidence is 2, expected a number from 0 to 1"),
        ({"fallback": "nowhere", "min_confidence": 0.5}, "nowhere"),
        ({"fallback": models["tagger"], "min_confidence": 0.5}, "the fallback labels tokens and the model sequences"),
    ):
        with pytest.raises(ValueError, match=message):
            create_app(models["tmux"], tokenizer, **options)
    torch.manual_seed(0)
    number = fastmux.TMuxForSequenceClassification.from_backbone(config, 2, num_labels=1)
    with pytest.raises(ValueError, match="the model is a regression"):
        create_app(number, tokenizer, fallback=number, min_confidence=0.5)


def test_the_library_sends_the_same_rows_on(models, tokenizer, sure, texts):
    ours, theirs, limits, limit = sure("tmux", "plain")
    found = fastmux.Labeller(models["tmux"], tokenizer, fallback=models["plain"], min_confidence=limit)(texts, copies=4)
    for answer, one, mine, other in zip(found, limits, ours, theirs, strict=True):
        same(answer, other if one < limit else mine)
