"""/docs and /info: what a server says of itself, where there is no way to the network."""

import re

import pytest
from transformers import BertConfig, BertForSequenceClassification

import fastmux


def test_docs_take_nothing_from_elsewhere(serve):
    async def test(server):
        page = await server.client.get("/docs")
        assert page.status_code == 200 and "SwaggerUIBundle(" in page.text
        assert not re.search(r"https?://", page.text), "something comes from the network"
        wanted = re.findall(r"""(?:src|href|url:)[= ]["']([^"']+)["']""", page.text)
        assert len(wanted) == 4 and "openapi.json" in wanted
        for address in wanted:  # relative: the same behind a proxy that puts a path before it
            found = await server.client.get(f"/{address}")
            assert found.status_code == 200 and len(found.content) > 500, address
        assert "SwaggerUIBundle" in (await server.client.get("/docs-assets/swagger-ui-bundle.js")).text
        assert (await server.client.get("/redoc")).status_code == 404  # its page comes from the network

    serve(test)


@pytest.mark.parametrize(
    ("name", "num_instances", "instances_are", "rows_per_group"),
    [("plain", 1, None, 1), ("tmux", 4, "rows", 4), ("joined", 2, "rows", 2), ("positions", 2, "positions", 1)],
)
def test_instances_by_kind_of_model(name, num_instances, instances_are, rows_per_group, models, config, serve):
    if name not in models:
        wide = BertForSequenceClassification(BertConfig(**config.to_dict() | {"num_hidden_layers": 3}))
        made = fastmux.JoinedForSequenceClassification.from_backbone(wide, 2, join="positions").eval()
        models[name] = made
    assert getattr(models[name].config, "num_instances", 1) == num_instances

    async def test(server):
        info = (await server.client.get("/info")).json()
        assert (info["num_instances"], info["instances_are"]) == (num_instances, instances_are)
        assert info["rows_per_group"] == rows_per_group
        await server.ask("w1", copies=rows_per_group)
        refused = await server.ask("w1", copies=rows_per_group + 1, status=422)
        assert "copies is" in refused["detail"]

    serve(test, name)
