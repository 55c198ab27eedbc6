"""/rerank and /v1/rerank, as the clients of rerankers speak them, say what CrossEncoder says."""

from __future__ import annotations

import asyncio
import copy

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification

import fastmux
from fastmux.testing import assert_agrees

pytestmark = pytest.mark.numbers
QUERY = "w1 w2 w3"
LONG = " ".join(["w4"] * 50)


@pytest.fixture(scope="module")
def one_score(config):
    """Cross-encoders by name: plain, tmux (N = 4), rows (N = 2 joined rows), positions (N = 2 joined positions)."""
    torch.manual_seed(0)
    said = config.to_dict() | {"num_labels": 1, "num_hidden_layers": 3}
    plain = BertForSequenceClassification(BertConfig(**said))
    joined = fastmux.JoinedForSequenceClassification.from_backbone
    tmux = fastmux.TMuxForSequenceClassification.from_backbone(
        BertConfig(**said), 4, num_labels=1, demultiplexer="unbind"
    )
    found = {"plain": plain, "tmux": tmux} | {join: joined(plain, 2, join=join) for join in ("rows", "positions")}
    return {name: model.eval() for name, model in found.items()}


@pytest.fixture(scope="module")
def cross_encoder(one_score, tokenizer, tmp_path_factory):
    """The models as sentence-transformers loads them."""

    def load(name):
        folder = tmp_path_factory.mktemp(name)
        one_score[name].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return CrossEncoder(str(folder), device="cpu")

    return load


@pytest.fixture
def asking(one_score, tokenizer, running):
    """``asking(test, name, ...)`` runs ``await test(server, ask)``; ask gives a status and JSON."""

    def run(test, model="plain", **options):
        async def whole():
            async with running(one_score.get(model, model), tokenizer, **options) as server:

                async def ask(route="/rerank", headers=None, **body):
                    answer = await server.client.post(route, json={"query": QUERY, **body}, headers=headers or {})
                    server.last = answer
                    return answer.status_code, answer.json()

                await test(server, ask)

        asyncio.run(whole())

    return run


def near(results, expected, name):
    """That results have the order and the scores of CrossEncoder.rank."""
    assert [one["index"] for one in results] == [int(one["corpus_id"]) for one in expected]
    found, theirs = ([float(one[key]) for one in some] for some, key in ((results, name), (expected, "score")))
    assert_agrees(torch.tensor(found), torch.tensor(theirs))


def test_scores_are_those_of_a_cross_encoder(asking, cross_encoder, texts):
    original, documents = cross_encoder("plain"), [*texts[:12], LONG]
    expected = original.rank(QUERY, documents, return_documents=True)
    raw = original.rank(QUERY, documents, activation_fn=torch.nn.Identity())

    async def test(server, ask):
        status, found = await ask(texts=documents)
        near(found, expected, "score")
        assert status == 200 and {tuple(one) for one in found} == {("index", "score")}
        assert server.last.headers["X-Truncated"] == "1"
        assert await server.metric("fastmux_cut_rows_total") == 1
        _, found = await ask(texts=documents, raw_scores=True, return_text=True)
        near(found, raw, "score")
        assert [one["text"] for one in found] == [documents[one["index"]] for one in found]
        given = [documents[0], {"text": documents[1]}, *documents[2:]]
        for route in ("/v1/rerank", "/v2/rerank", "/rerank"):
            _, said = await ask(route, documents=given, model="mine", top_n=5, return_documents=True, user="me")
            near(said["results"], expected[:5], "relevance_score")
            assert [one["document"]["text"] for one in said["results"]] == [one["text"] for one in expected[:5]]
            assert said["model"] == "mine" and said["id"]
            assert said["usage"]["total_tokens"] == sum(min(32, 6 + len(text.split())) for text in documents)
            assert said["meta"]["warnings"] == [
                "1 of 13 documents were cut: with the query they have more than 32 tokens"
            ]
        _, said = await ask("/v1/rerank", documents=texts[:2], top_n=7)
        assert len(said["results"]) == 2 and "document" not in said["results"][0] and "meta" not in said
        near(said["results"], original.rank(QUERY, texts[:2]), "relevance_score")
        assert said["model"] == "BertForSequenceClassification"

    asking(test)


@pytest.mark.parametrize(("name", "copies"), [("tmux", 4), ("rows", 2), ("positions", 1)])
def test_a_multiplexed_cross_encoder(asking, one_score, cross_encoder, tokenizer, texts, name, copies):
    if name == "positions":
        expected = cross_encoder(name).rank(QUERY, texts[:9])
    else:  # each row alone in its group
        pairs = (tokenizer(QUERY, text, return_tensors="pt") for text in texts[:9])
        alone = [float(one_score[name].predict(**pair, copies=copies).sigmoid()) for pair in pairs]
        expected = [{"corpus_id": i, "score": alone[i]} for i in sorted(range(9), key=lambda i: -alone[i])]

    async def test(server, ask):
        _, found = await ask(texts=texts[:9], copies=copies)
        near(found, expected, "score")
        _, found = await ask(texts=texts[:9])
        assert sorted(one["index"] for one in found) == list(range(9))
        status, said = await ask(texts=texts[:9], copies=copies + 1)
        assert status == 422 and "copies is" in said["detail"]

    asking(test, name)


def test_equal_scores_keep_their_order(asking):
    async def test(server, ask):
        _, found = await ask(texts=["w5 w6"] * 7)
        assert [one["index"] for one in found] == list(range(7))

    asking(test)


def test_queries_of_many_clients_share_passes(asking, texts):
    async def test(server, ask):
        server.passes.gate.clear()
        first = asyncio.create_task(ask(texts=texts[:1]))
        await server.until(lambda: server.passes.slots)
        others = [asyncio.create_task(ask(texts=texts[n : n + 2])) for n in range(1, 21)]
        await server.until(lambda: len(server.service.batcher) == 40)
        server.passes.gate.set()
        assert all([(await one)[0] == 200 for one in (first, *others)])
        assert len(server.passes.slots) < 6

    asking(test)


BAD = [
    ({"texts": []}, "texts", "texts is '[]', expected a list of at least one text"),
    ({"texts": "w1"}, "texts", "texts is 'w1', expected a list of at least one text"),
    ({"texts": ["w1", " "]}, "texts", "texts[1] is empty"),
    ({"texts": ["w1", "a\0"]}, "texts", "texts[1] holds a NUL"),
    ({"texts": ["w1", {"text": "w2"}]}, "texts", "texts[1] is \"{'text': 'w2'}\", expected a text"),
    ({"texts": ["w1"] * 5}, "texts", "texts has 5 rows, the limit is 4 (max_rows_per_request)"),
    ({"texts": ["w1", LONG], "truncate": False}, "texts", "texts[1], with the query: the row has 56 tokens, the limit"),
    ({"texts": ["w1"], "query": ""}, "query", "query is empty"),
    ({"texts": ["w1"], "query": 3}, "query", "query: Input should be a valid string"),
    ({"texts": ["w1"], "raw_scores": 1}, "raw_scores", "raw_scores: Input should be a valid boolean"),
    ({"texts": ["w1"], "truncation_direction": "Left"}, "truncation_direction", "is 'Left', expected 'right'"),
    ({}, "texts", "texts: Field required (expected a JSON object with query, "),
    ({"documents": []}, "documents", "documents is '[]', expected a list of at least one text or {"),
    ({"documents": ["w1", ""]}, "documents", "documents[1] is empty"),
    ({"documents": ["w1", {"title": "w1"}]}, "documents", "documents[1] is \"{'title': 'w1'}\", expected a text or {"),
    ({"documents": ["w1"] * 5}, "documents", "documents has 5 rows, the limit is 4 (max_rows_per_request)"),
    ({"documents": ["w1"], "top_n": 0}, "top_n", "top_n is 0, expected an integer of at least 1"),
    ({"documents": ["w1"], "top_n": "1"}, "top_n", "top_n: Input should be a valid integer"),
]


@pytest.mark.parametrize(("body", "param", "said"), BAD)
def test_bad_input_is_named(asking, body, param, said):
    async def test(server, ask):
        too_many = "max_rows_per_request" in said
        status, content = await ask(**body)
        assert status == (413 if too_many else 422) and said in content["detail"]
        if "documents" in body:
            status, content = await ask("/v1/rerank", **body)
            error = content["error"]
            assert status == (413 if too_many else 400) and said in error["message"]
            assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert not server.passes.slots

    asking(test, max_rows_per_request=4)


def test_what_is_accepted_where_others_say_it(asking, texts):
    async def test(server, ask):
        status, _ = await ask(texts=texts[:2], truncation_direction="Right", truncate=None, whatever=3)
        assert status == 200
        answer = await server.client.post("/rerank", content=b"[")
        assert answer.status_code == 422 and "not JSON" in answer.json()["detail"]
        shown = (await server.client.get("/openapi.json")).json()["paths"]
        assert {"/rerank", "/v1/rerank", "/v2/rerank", "/predict"} <= shown.keys()

    asking(test)


@pytest.mark.parametrize("name", ["plain", "tagger"])
def test_a_model_without_one_score_says_so(serve, name):
    does = {"plain": "gives a row one of 3 labels", "tagger": "labels tokens"}[name]

    async def test(server):
        body = {"query": "w1", "texts": ["w2"], "documents": ["w2"]}
        said = (await server.client.post("/rerank", json=body)).json()["detail"]
        assert said.startswith(f"the model {does}; reranking is for models with one score on pairs of texts")
        answer = await server.client.post("/v1/rerank", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["message"] == said
        assert "/rerank" not in (await server.client.get("/openapi.json")).json()["paths"]

    serve(test, name)


def test_a_model_of_several_labels_in_name_only(asking, one_score, texts):
    # One label, each row of which the model would otherwise give the probability 1.
    model = copy.deepcopy(one_score["plain"])
    model.config.problem_type = "single_label_classification"
    scores = []

    async def test(server, ask):
        scores.append([one["score"] for one in (await ask(texts=texts[:5]))[1]])

    for one in ("plain", model):
        asking(test, one)
    assert scores[0] == pytest.approx(scores[1]) and len(set(scores[0])) == 5


def test_nan_is_never_sent(asking, one_score):
    model = copy.deepcopy(one_score["plain"])
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[9] = float("nan")  # of w4

    async def test(server, ask):
        assert (await ask("/v1/rerank", documents=["w1"]))[0] == 200
        status, said = await ask("/v1/rerank", documents=["w1", "w4"])
        assert status == 500 and said["error"]["message"].startswith("documents[1]: the model failed")

    asking(test, model)
