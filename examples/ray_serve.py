"""Run the server of `fastmux serve` on Ray Serve: several replicas on a cluster, at one address.

    python examples/ray_serve.py                # a tiny model, one request, on this machine
    FASTMUX_MODEL=my-model serve run examples.ray_serve:app    # two replicas, at http://localhost:8000

Each replica runs the whole app and groups only the rows of its own requests, so that fewer replicas fill groups better.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import ray
from fastapi import FastAPI
from ray import serve
from transformers import BertConfig, BertTokenizerFast

import fastmux
from fastmux.serving.app import create_app


def build() -> FastAPI:
    """The app of a replica, made where the replica runs."""
    return create_app(os.environ["FASTMUX_MODEL"])


# Requests are refused by the app, which says when to come back; Ray Serve is to hand over as many as it takes.
Replica = serve.deployment(serve.ingress(build)(), num_replicas=2, max_ongoing_requests=1024)
app = Replica.bind()


def demonstration() -> None:
    """A tiny model with random weights on one replica, and a request."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "dull", "film"]
    tiny = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
        replica = {"num_cpus": 1, "runtime_env": {"env_vars": {"FASTMUX_MODEL": folder}}}
        serve.start(http_options={"port": port})
        serve.run(Replica.options(num_replicas=1, ray_actor_options=replica).bind())
        try:
            for _ in range(600):
                try:
                    urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except HTTPError:  # 503, while it warms up
                    time.sleep(0.1)
            asked = json.dumps({"inputs": ["fine film", "dull film"], "details": True}).encode()
            with urlopen(f"http://127.0.0.1:{port}/predict", asked) as answer:
                print(answer.read().decode())
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    demonstration()
