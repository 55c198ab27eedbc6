"""What is answered is what `fastmux.Labeller` says, for one row or many, alone or in company."""

from __future__ import annotations

import asyncio

import pytest

import fastmux

pytestmark = pytest.mark.numbers


def close(answers, expected):
    for ours, theirs in zip(answers, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if not name.startswith("score"):
                assert ours[name] == value
            elif isinstance(value, dict):
                assert ours[name] == pytest.approx(value, abs=2e-5)
            else:
                assert ours[name] == pytest.approx(value, abs=2e-5)


@pytest.mark.parametrize("name", ["plain", "tmux", "index", "joined", "tagger", "tmux_tagger"])
def test_a_list_is_answered_as_the_library_does(serve, models, tokenizer, texts, name):
    expected = fastmux.Labeller(models[name], tokenizer)(texts)

    async def test(server):
        close(await server.ask(texts), expected)

    serve(test, name)


@pytest.mark.parametrize("name", ["plain", "tmux", "index", "joined", "tagger", "tmux_tagger"])
def test_with_all_copies_a_row_is_answered_as_alone(serve, models, tokenizer, texts, name):
    labeller = fastmux.Labeller(models[name], tokenizer)
    copies = labeller.num_instances
    expected = [labeller([text], copies=copies)[0] for text in texts[:12]]

    async def test(server):
        company = asyncio.create_task(server.together(texts[12:30]))
        close(await server.together(texts[:12], copies=copies), expected)
        close(await server.ask(texts[:12], copies=copies), expected)
        await company

    serve(test, name)


def test_one_row_and_a_list_of_one_are_answered_alike(serve, texts):
    async def test(server):
        for row in (texts[0], {"text": texts[0]}, {"text": texts[0], "text_pair": texts[1]}):
            one = await server.ask(row, all_scores=True, details=True)
            assert await server.ask([row], all_scores=True, details=True) == [one]
            assert one["group"] == {"rows": 1, "room": 4} and set(one["scores"]) == {"LABEL_0", "LABEL_1", "LABEL_2"}
        many = await server.ask([texts[0]] * 5)
        assert len(many) == 5

    serve(test)


def test_words_get_tags(serve, models, tokenizer, texts):
    rows = [{"words": texts[0].split()}, texts[1]]
    expected = fastmux.Labeller(models["tagger"], tokenizer)(rows)

    async def test(server):
        close(await server.ask(rows), expected)
        assert "spans" not in expected[0] and "spans" in expected[1]

    serve(test, "tagger")


def test_concurrent_rows_fill_groups(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        first = asyncio.create_task(server.ask(texts[0]))
        await server.until(lambda: server.passes.slots)
        rest = asyncio.create_task(server.together(texts[1:10], details=True))
        await server.until(lambda: len(server.service.batcher) == 9)
        server.passes.gate.set()
        answers = await rest
        await first
        assert [len(set(slots)) for groups in server.passes.slots for slots in groups] == [1, 4, 4, 1]
        assert sorted(answer["group"]["rows"] for answer in answers) == [1] + [4] * 8
        assert len(server.passes.slots) == 2, "rows that waited together share a pass"
        assert sorted(server.passes.lengths[1], reverse=True) == server.passes.lengths[1], "like lengths share a group"

    serve(test, max_wait_ms=0.0)


def test_an_idle_model_waits_for_a_group_to_fill_but_not_for_ever(serve, texts):
    async def test(server):
        started = asyncio.get_running_loop().time()
        await server.together(texts[:4])  # full: no waiting
        assert asyncio.get_running_loop().time() - started < 4
        waited = asyncio.create_task(server.ask(texts[0]))
        await server.until(lambda: len(server.service.batcher) == 1)
        await asyncio.sleep(0.05)
        assert not waited.done() and len(server.passes.slots) == 1
        await server.together(texts[1:4])  # now it is full
        await waited
        assert len(server.passes.slots) == 2 and sorted(server.passes.slots[1][0]) == [0, 1, 2, 3]

    serve(test, max_wait_ms=5000.0)

    async def alone(server):
        assert (await server.ask(texts[0], details=True))["group"] == {"rows": 1, "room": 4}

    serve(alone, max_wait_ms=1.0)


def test_tenants_never_share_a_group(serve, texts):
    async def test(server):
        server.passes.gate.clear()
        first = asyncio.create_task(server.ask(texts[0]))
        await server.until(lambda: server.passes.slots)
        tenants = [asyncio.create_task(server.ask(text, tenant=f"t{i % 3}")) for i, text in enumerate(texts[:9])]
        plain = asyncio.create_task(server.ask(texts[9:12]))
        await server.until(lambda: len(server.service.batcher) == 12)
        waiting = list(server.service.batcher._waiting)
        server.passes.gate.set()
        await asyncio.gather(first, plain, *tenants)
        assert sorted(row.tenant for row in waiting) == [""] * 3 + ["t0"] * 3 + ["t1"] * 3 + ["t2"] * 3
        (slots,) = server.passes.slots[1:]  # one pass
        assert sorted(len(set(group)) for group in slots) == [3, 3, 3, 3]
        assert len({row for group in slots for row in group}) == 12, "no row is in two groups"

    serve(test, max_wait_ms=0.0)


def test_a_row_that_breaks_the_model_breaks_no_other(serve, texts):
    long = " ".join(["w1"] * 20)

    async def test(server):
        server.passes.broken.add(22)
        server.passes.gate.clear()
        rows = [asyncio.create_task(server.ask(text)) for text in texts[:7]]
        bad = asyncio.create_task(server.ask(long, status=500))
        await server.until(lambda: len(server.service.batcher) + sum(map(len, server.passes.lengths)) == 8)
        server.passes.gate.set()
        assert "the model failed: RuntimeError: broken on purpose" in (await bad)["detail"]
        assert all("label" in answer for answer in await asyncio.gather(*rows))
        mixed = await server.ask([texts[0], long, "", texts[1]])  # a list answers all that can be answered
        assert [next(iter(answer)) for answer in mixed] == ["label", "error", "error", "label"]
        assert "label" in await server.ask(texts[0]), "it keeps serving"
        assert await server.metric('fastmux_rows_total{outcome="failed"}') == 2

    serve(test)
