"""/v1/embeddings, as OpenAI's clients speak it, says what SentenceTransformer.encode says."""

from __future__ import annotations

import asyncio
import base64

import httpx2
import numpy as np
import openai
import pytest
import torch
from sentence_transformers import SentenceTransformer
from serving.listening import listening
from transformers import BertModel

from fastmux.embedding.config import EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.serving.app import create_app

pytestmark = pytest.mark.numbers
PROMPTS = {"query": "w1 w2 w3 ", "passage": "w4 "}


@pytest.fixture(scope="module")
def embedder(config):
    torch.manual_seed(0)
    said = EmbeddingConfig("mean", steps=(Normalize(),), max_seq_length=8, prompts=PROMPTS)
    return EmbeddingModel(BertModel(config), said).eval()


@pytest.fixture(scope="module")
def folder(embedder, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedder") / "it"
    embedder.save_pretrained(path, tokenizer)
    return path


@pytest.fixture(scope="module")
def original(folder):
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture
def asking(embedder, tokenizer, running):
    """``asking(test, ...)`` runs ``await test(server, ask)``; ask gives a status and JSON."""

    def run(test, model=embedder, **options):
        async def whole():
            async with running(model, tokenizer, **options) as server:

                async def ask(given, **more):
                    answer = await server.client.post("/v1/embeddings", json={"input": given, **more})
                    return answer.status_code, answer.json()

                await test(server, ask)

        asyncio.run(whole())

    return run


def vectors(answer):
    status, content = answer
    assert status == 200, content
    assert [one["index"] for one in content["data"]] == list(range(len(content["data"])))
    return np.array([one["embedding"] for one in content["data"]], np.float32)


def near(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_openai_client_gets_what_encode_gives(folder, original, texts):
    with (
        listening(create_app(str(folder))) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client,
    ):
        found = client.embeddings.create(model="any", input=texts[:5], user="me")  # base64, by default
        near(np.array([one.embedding for one in found.data], np.float32), original.encode(texts[:5]))
        plain = client.embeddings.create(model="any", input=texts[:5], encoding_format="float")
        near(np.array([one.embedding for one in plain.data], np.float32), original.encode(texts[:5]))
        assert found.usage.prompt_tokens == sum(min(8, len(text.split()) + 2) for text in texts[:5])
        with pytest.raises(openai.BadRequestError, match="33, expected 1 to 32") as caught:
            client.embeddings.create(model="any", input="w1", dimensions=33)
        assert caught.value.param == "dimensions" and caught.value.type == "invalid_request_error"
        assert [one.id for one in client.models.list()] == [str(folder)]


def test_every_form_of_input(asking, original, texts, tokenizer):
    long = " ".join(["w7 w9"] * 40)
    ids = tokenizer(texts[:3], truncation=True, max_length=8)["input_ids"]

    async def test(server, ask):
        near(vectors(await ask(texts[0])), original.encode([texts[0]]))
        asked = [*texts[:3], long]
        near(vectors(await ask(asked)), original.encode(asked))
        longer = sum(len(row.split()) > 6 for row in (texts[0], *asked))
        assert await server.metric("fastmux_cut_rows_total") == longer
        near(vectors(await ask(ids)), original.encode(texts[:3]))
        near(vectors(await ask(ids[0])), original.encode(texts[:1]))
        near(vectors(await ask(texts[:3], prompt_name="query")), original.encode(texts[:3], prompt_name="query"))
        cut = original.encode(texts[:3], truncate_dim=5, normalize_embeddings=True)
        near(vectors(await ask(texts[:3], dimensions=5)), cut)
        _, coded = await ask(texts[0], encoding_format="base64")
        raw = base64.b64decode(coded["data"][0]["embedding"])
        near(np.frombuffer(raw, "<f4"), original.encode(texts[0]))
        assert (await server.client.get("/docs")).status_code == 200
        assert (await server.client.get("/info")).json()["num_instances"] == 1

    asking(test)


@pytest.mark.parametrize(
    ("given", "more", "param", "said"),
    [
        (["w1", "w2", " "], {}, "input", r"input[2]: the text is empty"),
        ("", {}, "input", "input[0]"),
        ([], {}, "input", "expected a text"),
        (["w1", 3], {}, "input", "input[1] is '3'"),
        ([[5, 6], []], {}, "input", "input[1]"),
        ([True], {}, "input", "input[0] is 'True'"),
        ([5, 45], {}, "input", "token id 45, expected 0 to 44"),
        ([5] * 9, {}, "input", "has 9 token ids, expected 1 to 8"),
        ("w1", {"dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ("w1", {"encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ("w1", {"prompt_name": "other"}, "prompt_name", "'query', 'passage'"),
    ],
)
def test_bad_input_is_named_in_openais_shape(asking, given, more, param, said):
    async def test(server, ask):
        status, content = await ask(given, **more)
        error = content["error"]
        assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
        assert said in error["message"]
        assert not server.passes.slots

    asking(test)


def test_too_much_and_too_busy(asking, texts):
    async def test(server, ask):
        status, content = await ask(["w1"] * 5)
        assert status == 413 and "limit is 4" in content["error"]["message"]
        server.service.state = "draining"
        answer = await server.client.post("/v1/embeddings", json={"input": "w1"})
        assert answer.status_code == 503 and "Retry-After" in answer.headers and "error" in answer.json()

    asking(test, max_rows_per_request=4)


def test_nan_is_never_sent(asking, config):
    model = EmbeddingModel(BertModel(config), EmbeddingConfig("mean"))
    broken = model.encoder.embeddings.word_embeddings

    async def test(server, ask):
        with torch.no_grad():
            broken.weight[7] = float("nan")  # of w2
        fine, bad = await asyncio.gather(ask("w1"), ask(["w1", "w2"]))
        assert fine[0] == 200 and bad[0] == 500
        assert bad[1]["error"]["message"].startswith("input[1]: the model failed")

    asking(test, model)


def test_three_times_what_it_can_take_loses_no_request(asking, texts):
    async def test(server, ask):
        server.passes.gate.clear()
        begun = [asyncio.create_task(_post(server, texts[n % 60])) for n in range(48)]
        await server.until(lambda: sum(task.done() for task in begun) >= 32)
        server.passes.gate.set()
        found = await asyncio.gather(*begun)
        assert sorted({answer.status_code for answer in found}) == [200, 429]
        refused = [answer for answer in found if answer.status_code == 429]
        assert len(refused) == 32 and all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert {answer.json()["error"]["type"] for answer in refused} == {"rate_limit_error"}
        assert len(server.passes.slots) < 16  # rows of many clients shared passes

    asking(test, max_concurrent_requests=16)


async def _post(server, text) -> httpx2.Response:
    return await server.client.post("/v1/embeddings", json={"input": text})


def test_a_model_that_embeds_scores_no_pairs(asking):
    async def test(server, ask):
        answer = await server.client.post("/rerank", json={"query": "w1", "texts": ["w2"]})
        assert answer.status_code == 422 and answer.json()["detail"].startswith("the model embeds texts; reranking is")

    asking(test)


def test_what_is_for_classifiers_is_refused(embedder, tokenizer):
    with pytest.raises(ValueError, match="min_confidence is given, but the model embeds"):
        create_app(embedder, tokenizer, min_confidence=0.9)
