"""`predict`, `Labeller` and the server take an exported folder as they take a model, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from thoroughness import on_request
from word_tokenizer import word_tokenizer

import fastmux
from fastmux.serving.app import create_app

OPTIONS = {"num_workers": 0, "rows_per_shard": 16, "disable_tqdm": True}


@pytest.fixture
def rows_file(texts, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["plain", "several", "number", "tagger", "rows", "unbind", "tmux_tagger"])
def test_a_file_is_labelled_as_by_the_original(kind, models, tokenizer, exported, rows_file, tmp_path):
    options = OPTIONS | {"all_scores": kind != "number"}
    fastmux.predict(models[kind], rows_file, tmp_path / "theirs.jsonl", tokenizer=tokenizer, **options)
    fastmux.predict(exported(kind), rows_file, tmp_path / "ours.jsonl", **options)
    for ours, theirs in zip(lines(tmp_path / "ours.jsonl"), lines(tmp_path / "theirs.jsonl"), strict=True):
        assert near(ours, theirs)


def near(one, other):
    """Whether two answers are the same, numbers up to rounding."""
    if isinstance(one, float):
        return abs(one - other) < 1e-3
    if isinstance(one, dict):
        return list(one) == list(other) and all(near(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return one == other


def test_a_run_that_was_interrupted_goes_on(exported, rows_file, tmp_path, monkeypatch):
    from fastmux.passes.engine import Engine

    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    fastmux.predict(exported("unbind"), rows_file, whole, **OPTIONS)
    run, calls = Engine.run, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Engine, "run", interrupted)
        fastmux.predict(exported("unbind"), rows_file, resumed, **OPTIONS)
    with pytest.raises(ValueError, match=r"was begun with another model or other options: model was"):
        fastmux.predict(exported("plain"), rows_file, resumed, **OPTIONS)
    report = fastmux.predict(exported("unbind"), rows_file, resumed, **OPTIONS).report
    assert report.resumed == 32 and resumed.read_bytes() == whole.read_bytes()


def test_pairs_and_words(models, tokenizer, exported):
    pair = {"text": "w1 w2", "text_pair": "w3"}
    ours, theirs = fastmux.Labeller(exported("plain")), fastmux.Labeller(models["plain"], tokenizer)
    assert near(ours([pair, "w1", pair]), theirs([pair, "w1", pair]))
    assert ours([pair]) != ours(["w1 w2 w3"])
    ours, theirs = fastmux.Labeller(exported("tagger")), fastmux.Labeller(models["tagger"], tokenizer)
    rows = [{"words": ["w1", "w2 w3", "w4"]}, "w5 w6", {"words": []}]
    assert near(ours(rows), theirs(rows)) and "error" in ours(rows)[2]


def test_what_a_labeller_tells_of_its_model(exported):
    labeller = fastmux.Labeller(exported("rows", "int8"))
    assert (labeller.num_instances, labeller.instances_are, labeller.rows_per_group) == (2, "rows", 2)
    assert labeller.model_class == "JoinedForSequenceClassification, exported in int8"
    assert labeller.labels == ["LABEL_0", "LABEL_1", "LABEL_2"] and labeller.max_length == 32
    positions = fastmux.Labeller(exported("positions"))
    assert (positions.num_instances, positions.instances_are, positions.rows_per_group) == (2, "positions", 1)


@pytest.mark.parametrize("behind", ["torch", "exported"])
@pytest.mark.parametrize("first", ["torch", "exported"])
def test_a_cascade_of_either_kind(first, behind, models, tokenizer, exported, texts):
    models_of = {"torch": models, "exported": {name: exported(name) for name in ("unbind", "plain")}}
    fast, slow = models_of[first]["unbind"], models_of[behind]["plain"]
    given = tokenizer if "torch" in (first, behind) else None
    alone = fastmux.Labeller(slow, tokenizer if behind == "torch" else None)(texts)
    everything = fastmux.Labeller(fast, given, fallback=slow, min_confidence=1.0)(texts)
    assert near(everything, alone)
    found = fastmux.predict(fast, texts, tokenizer=given, fallback=slow, min_confidence=0.6, **OPTIONS)
    assert 0 < found.report.fallback < len(texts)


def test_a_fallback_of_other_labels_or_tokens(exported, models, tokenizer):
    with pytest.raises(ValueError, match="the fallback labels tokens and the model sequences"):
        fastmux.Labeller(exported("plain"), fallback=exported("tagger"), min_confidence=0.9)
    other = word_tokenizer(["other"])
    with pytest.raises(ValueError, match=r"tokenizer has other tokens than the one that model .* was exported with"):
        fastmux.Labeller(exported("plain"), other)


def test_it_is_served(exported, texts):
    expected = fastmux.Labeller(exported("unbind", "int8"))(texts[:8])
    with TestClient(create_app(exported("unbind", "int8"))) as client:
        while client.get("/health").status_code == 503:
            pass
        answers = client.post("/predict", json={"inputs": texts[:8]}).json()
        info = client.get("/info").json()
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert info["model_class"] == "TMuxForSequenceClassification, exported in int8"
    assert (info["settings"]["device"], info["settings"]["dtype"]) == ("cpu", "int8")


def test_one_that_scores_pairs_is_served(models, tokenizer, exported, texts):
    asked, found = {"query": "w1 w2", "texts": texts[:6]}, []
    for model, own in ((exported("number"), None), (models["number"], tokenizer)):
        with TestClient(create_app(model, own)) as client:
            while client.get("/health").status_code == 503:
                pass
            found.append(client.post("/rerank", json=asked).json())
    assert near(*found) and len(found[0]) == 6


HEAVY = ("torch", "transformers", "datasets")
PREDICT = """
import sys
from fastmux.cli.main import main
main(["predict", sys.argv[1], sys.argv[2], "--output", sys.argv[3], "--disable_tqdm"])
"""
LABELLER = """
import sys
import fastmux
assert "label" in fastmux.Labeller(sys.argv[1])(["w1 w2"])[0]
"""
SERVE = """
import sys
from fastapi.testclient import TestClient
from fastmux.serving.app import create_app
with TestClient(create_app(sys.argv[1])) as client:
    while client.get("/health").status_code == 503:
        pass
    assert client.post("/predict", json={"inputs": "w1 w2"}).status_code == 200
"""


@pytest.mark.parametrize("program", [PREDICT, LABELLER, SERVE], ids=["predict", "labeller", "serve"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_without_torch(program, precision, exported, rows_file, tmp_path):
    said = f"\nprint([name for name in {HEAVY} if name in sys.modules], sys.argv[3])\n"
    command = [sys.executable, "-c", program + said, exported("unbind", precision), rows_file, tmp_path / "out.jsonl"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("[] ")


@on_request
def test_the_command(models, tokenizer, texts, tmp_path):
    models["plain"].save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.csv").write_text("id,body\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)))
    command = [sys.executable, "-m", "fastmux", "export", tmp_path / "model", tmp_path / "fast", "--int8"]
    command += ["--text", tmp_path / "rows.csv", "--column", "body", "--max_length", "20"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert said[0] == f"on {len(texts)} rows, beside the original in torch:"
    assert said[2].startswith("same labels       ") and said[3].startswith(f"written: {tmp_path / 'fast'}, ")
    assert fastmux.Labeller(tmp_path / "fast").max_length == 20
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "is not empty; give a new folder" in again.stderr
