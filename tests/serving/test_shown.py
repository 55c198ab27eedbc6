"""What docs/serve.md and `fastmux serve --help` show of clients gets the answers that they show."""

from __future__ import annotations

import contextlib
import doctest
import json
import re
import shlex
import urllib.request
from pathlib import Path

import pytest
import torch
from serving.listening import listening
from transformers import BertConfig, BertForSequenceClassification, BertModel

import fastmux
from fastmux.cli.serve import EPILOG
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.serving.app import create_app

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
ADDRESS = "localhost:8000"
CALLS = [line.strip() for text in (PAGE, EPILOG) for line in text.splitlines() if f"curl {ADDRESS}/" in line]


@pytest.fixture(scope="module")
def address(config, tokenizer):
    """Gives, for a route, the address of a server that has it."""
    torch.manual_seed(0)
    said = config.to_dict()
    wide = {"hidden_size": 384, "num_attention_heads": 2, "num_hidden_layers": 1}  # as the page shows it
    models = {
        "/predict": fastmux.TMuxForSequenceClassification.from_backbone(config, 10, num_labels=2),
        "/rerank": BertForSequenceClassification(BertConfig(**said | {"num_labels": 1})),
        "/v1/embeddings": EmbeddingModel(BertModel(BertConfig(**said | wide)), EmbeddingConfig("mean")),
    }
    with contextlib.ExitStack() as stack:
        found = {
            route: stack.enter_context(listening(create_app(model.eval(), tokenizer)))
            for route, model in models.items()
        }
        yield found | {"/v1/rerank": found["/rerank"]}


def form(value):
    """An answer with the types of its numbers and texts in their place."""
    if isinstance(value, dict):
        return {name: form(own) for name, own in value.items()}
    return [form(own) for own in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("line", CALLS)
def test_calls(address, line):
    _, where, *options = shlex.split(line, comments=True)
    route = where.removeprefix(ADDRESS)
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given.keys() <= {"-d", "-H"}
    headers = dict([given["-H"].split(": ")]) if "-H" in given else {}
    request = urllib.request.Request(f"http://{address[route]}{route}", given["-d"].encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.loads(answer.read())
    shown = line.rpartition("  # ")[2]
    if shown.startswith(("{", "[")):
        assert form(found) == form(json.loads(shown))
    assert route != "/predict" or isinstance(found, list) == isinstance(json.loads(given["-d"])["inputs"], list)


def test_there_are_calls_of_every_route():
    routes = {re.match(rf"curl {ADDRESS}(/[\w/]*)", line)[1] for line in CALLS}
    assert routes == {"/predict", "/rerank", "/v1/rerank", "/v1/embeddings"}


def test_sessions(address):
    sessions = re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL)
    assert sessions
    for number, text in enumerate(sessions):
        own = text.replace(ADDRESS, address["/v1/embeddings"])
        session = doctest.DocTestParser().get_doctest(own, {}, f"session {number}", "serve.md", 0)
        assert doctest.DocTestRunner().run(session).failed == 0
