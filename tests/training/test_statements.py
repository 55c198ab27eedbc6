"""The embedded default: kinds of statements by `ast`, splits; and a run of it, with the plain encoders beside it."""

from __future__ import annotations

import email
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from thoroughness import on_request
from transformers import AutoModelForTokenClassification, EvalPrediction

import fastmux
from fastmux.training.arguments import parse
from fastmux.training.features import encode_tokens
from fastmux.training.metrics import token_accuracy
from fastmux.training.models import ModelFactory
from fastmux.training.recipe import Recipe, read_recipe
from fastmux.training.report import what_it_bought
from fastmux.training.run_result import Score, Throughput, VariantResult
from fastmux.training.tasks.statements import CHARACTERS, KINDS, NO_LABEL, StatementsTask, labelled_characters, passages
from fastmux.training.tokenization import train_tokenizer
from fastmux.training.train import main

#: A line of source, and the kinds of its characters in their order.
LINES = [
    ('"""Doc."""', ["docstring"]),
    ("from os import (  # all of it", ["import", "comment"]),
    ("    path)", ["import"]),
    ("@cached", ["definition"]),
    ("async def größe(a,", ["definition"]),
    ("    b: int = 1) -> int:", ["definition"]),
    ("    'ß'", ["docstring"]),
    ("    if a:", ["if"]),
    ("        return (b,", ["return"]),
    ("", []),
    ("            'two')", ["return"]),
    ("    elif b: raise KeyError('ß')", ["if", "raise"]),
    ("    else:", ["if"]),
    ("        x = [c for c in a if c]", ["assignment"]),
    ("    for x in f'{a!r:>{b}}': x += 1", ["loop", "assignment"]),
    ("    while True: break", ["loop", "other"]),
    ("    with a as b: b.run(a)", ["with", "expression"]),
    ("    try: del a", ["try", "other"]),
    ("    except OSError:", ["try"]),
    ("        a: int", ["assignment"]),
    ("    finally: pass", ["try", "other"]),
    ("@register(", ["class"]),
    ("    1)", ["class"]),
    ("class A(B):", ["class"]),
    ("    def b(self): return 2; x = 3  # why", ["definition", "return", "definition", "assignment", "comment"]),
]
SOURCE = "\n".join(line for line, _ in LINES) + "\n"


@pytest.mark.parametrize("line", range(len(LINES)))
def test_kinds_of_statements(line):
    text, tags = labelled_characters(SOURCE)
    assert len(text) == len(tags) == len(SOURCE)
    begin = sum(len(before) + 1 for before, _ in LINES[:line])
    found = tags[begin : begin + len(LINES[line][0])]
    kinds = [KINDS[tag] for tag in found if tag != NO_LABEL]
    assert [kind for at, kind in enumerate(kinds) if not at or kinds[at - 1] != kind] == LINES[line][1]


def test_characters_can_be_seen_and_space_has_no_label():
    text, tags = labelled_characters(SOURCE)
    spaces = [character.isspace() for character in SOURCE]
    assert [tag == NO_LABEL for tag in tags] == spaces
    assert [seen in "·¶" for seen in text] == spaces and text.count("¶") == len(LINES)
    assert "gr??e" in text and all(seen.isascii() for seen, space in zip(text, spaces, strict=True) if not space)
    assert labelled_characters("def broken(:\n") == labelled_characters("x = '\0'\n") == ("", [])
    assert labelled_characters("x\x0cy = 1\n") == ("", [])
    text, tags = labelled_characters("\x0cdef f(a):\n    return a")
    assert text == "·def·f(a):¶····return·a" and KINDS[tags[1]] == "definition" and KINDS[tags[-1]] == "return"


def test_passages_begin_anywhere_and_have_a_label():
    text, tags = "x" * 10 * CHARACTERS, [0] * 10 * CHARACTERS
    found = list(passages(text, tags, random.Random(0)))
    assert len(found) == 9 and {len(part) for pair in found for part in pair} == {CHARACTERS}
    assert len({len("".join(next(passages("abc" * 200, [0] * 600, random.Random(s)))[0])) for s in range(5)}) == 1
    assert len({next(passages("abc" * 200, [0] * 600, random.Random(s)))[0][:3] for s in range(9)}) == 3
    assert not list(passages(text, [NO_LABEL] * len(tags), random.Random(0)))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A small package: some modules of the standard library."""
    root = tmp_path_factory.mktemp("library")
    shutil.copytree(Path(email.__file__).parent, root / "email")
    return root


def test_the_task(library, tmp_path):
    data, again = (StatementsTask().load(str(library)) for _ in range(2))
    train, validation = data.train, data.evaluation["validation"]
    assert data.labels == KINDS and len(train) > 1000 and len(validation) > 100
    assert train["tokens"][:] == again.train["tokens"][:] and data.text == again.text
    counts = np.bincount([tag for tags in train["tags"] for tag in tags if tag != NO_LABEL], minlength=len(KINDS))
    assert (counts > 0).sum() >= len(KINDS) - 1
    # Each character is one token, and a passage fills a row of the recipe.
    recipe = read_recipe("statements")
    tokenizer = train_tokenizer(data.text, recipe.vocab_size, recipe.max_length)
    rows = encode_tokens(tokenizer, train.select(range(300)), recipe.max_length)
    assert {len(ids) for ids in rows["input_ids"]} == {CHARACTERS + 2} == {recipe.max_length}
    assert not any(rows["cut"]) and tokenizer.unk_token_id not in np.array(rows["input_ids"][:])
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "small.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="too little source for two splits: 1 files, 0 passages"):
        StatementsTask().load(str(tmp_path))


def test_heads_of_a_new_first_layer_look_at_their_neighbours():
    recipe = read_recipe("statements").override(Recipe(hidden_size=48, num_heads=6))
    tokenizer = train_tokenizer(["some text"], vocab_size=300, max_length=16)
    factory = ModelFactory(recipe, tokenizer, "token", KINDS, encoder=None, start=None)
    ids = torch.randint(5, 200, (8, 60))
    for model in (factory.plain(), factory.rival("joined").model, factory.rival("shallow")):
        model.eval()
        attention = model.bert.encoder.layer[0].attention.self
        states = model.bert.embeddings(ids)
        query, key = (f(states).view(8, 60, 6, 8).transpose(1, 2) for f in (attention.query, attention.key))
        scores = (query @ key.transpose(2, 3)).mean(0)
        for head, distance in enumerate((-1, 1, -2, 2, -3, 3)):
            means = {step: scores[head].diagonal(step).mean().item() for step in range(-6, 7)}
            assert max(means, key=means.get) == distance
    still = ModelFactory(
        recipe.override(Recipe(start_from_neighbours=False)), tokenizer, "token", KINDS, encoder=None, start=None
    )
    assert still.plain().bert.embeddings.position_embeddings.weight.std() < 0.025


def test_words_that_were_cut_count_as_wrong():
    labels = np.array([[1, -100, 2], [0, -100, -100]])
    rows = Dataset.from_dict({"missed": [[], [3, -100]]})
    right = token_accuracy(EvalPrediction(labels, labels), rows)
    assert right == {"accuracy": 0.75}
    assert token_accuracy(EvalPrediction(np.zeros_like(labels), labels), rows) == {"accuracy": 0.25}


@on_request
def test_the_embedded_default_from_end_to_end(library, tmp_path, capsys):
    sizes = "--hidden_size 32 --num_heads 2 --num_layers 3 --intermediate_size 48 --narrow_size 16 --max_length 32"
    few = "--max_steps 2 --task_rows 8 --num_instances 2 --throughput_seconds 0.2 --use_cpu --disable_tqdm true"
    folder = tmp_path / "run"
    arguments = ["--data_dir", str(library), "--output_dir", str(folder)]
    main([*arguments, *sizes.split(), *few.split()])
    report = json.loads((folder / "metrics.json").read_text())
    printed = capsys.readouterr().out
    assert report["task"] == "statements"
    assert list(report["variants"]) == ["plain", "shallow", "narrow", "joined", "unbind"]
    assert [sentence.split()[0] for sentence in report["sentences"]] == ["joined", "unbind"]
    assert all(sentence in printed for sentence in report["sentences"])
    limits = {"plain": 1.0, "shallow": 3.0, "narrow": 3 / 2 * 4, "joined": 3 * 32 / (32 + 2 * 17)}
    for name in limits:
        found = report["variants"][name]
        assert list(found["stages"]) == ["task"] and found["stages"]["task"]["steps"] == 2
        assert found["retrieval_accuracy"] is None and found["groupings"] == 1
        assert found["limit"] == pytest.approx(limits[name])
        assert 0 < found["scores"]["validation"]["accuracy"]["mean"] < 1
        line = next(line for line in printed.splitlines() if line.startswith((f"{name} ", f"`{name}` ")))
        assert line.split()[-1] == f"{limits[name]:.2f}"
    shallow, narrow = (
        AutoModelForTokenClassification.from_pretrained(folder / name / "task/model").config
        for name in ("shallow", "narrow")
    )
    assert (shallow.num_hidden_layers, shallow.hidden_size) == (1, 32)
    assert (narrow.num_hidden_layers, narrow.hidden_size, narrow.intermediate_size) == (2, 16, 24)
    joined = fastmux.JoinedForTokenClassification.from_pretrained(folder / "joined/task/model").config
    assert (joined.num_instances, joined.join, joined.row_layers, joined.last_layers) == (2, "positions", 1, 0)
    assert joined.id2label == dict(enumerate(KINDS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["shallow", "--shallow_layers", "4"],
            "--shallow_layers is 4, expected at most 1 for the variant shallow, with num_layers=2",
        ),
        (["narrow", "--narrow_size", "96"], "--narrow_size is 96, expected at most 95 for the variant narrow"),
        (
            ["narrow", "--narrow_layers", "4"],
            "--narrow_layers is 4, expected at most 2 for the variant narrow, with num_layers=2",
        ),
        (["narrow", "--narrow_size", "30"], "--narrow_size is 30, expected a multiple of num_heads=4"),
        (["joined", "--joined_row_layers", "5"], "--joined_row_layers is 5, expected at most 1 for the variant joined"),
        (["joined", "--joined_row_layers", "-1"], "joined_row_layers is -1, expected an integer of at least 0"),
        (["shallow", "--encoder", "bert-base-uncased"], "shallow is trained from scratch, --encoder bert-base-uncased"),
    ],
)
def test_rivals_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(["--task", "statements", "--variants", "plain", *arguments])


def test_what_multiplexing_bought_is_said_beside_the_plain_encoder_of_its_speed():
    def variant(accuracy: float, speed: float) -> VariantResult:
        scores = {"validation": {"accuracy": Score.of([accuracy])}}
        retrieval = {"retrieval_accuracy_after_warm_up": None, "retrieval_accuracy": None}
        figures = {"throughput": Throughput(speed), "ratio_to_plain": None, "limit": 1.0}
        return VariantResult(parameters=1, groupings=1, scores=scores, stages={}, **retrieval, **figures)

    variants = {"plain": variant(0.8, 100), "shallow": variant(0.7, 190), "narrow": variant(0.6, 420)}
    variants |= {"joined": variant(0.75, 200), "unbind": variant(0.55, 400)}
    assert what_it_bought(variants, "accuracy", "validation") == [
        "joined against shallow, the smaller plain encoder that is closest in speed: validation accuracy 0.7500 "
        "against 0.7000, +5.0 points, at 1.05 times its speed.",
        "unbind against narrow, the smaller plain encoder that is closest in speed: validation accuracy 0.5500 "
        "against 0.6000, -5.0 points, at 0.95 times its speed.",
    ]
    assert what_it_bought({name: variants[name] for name in ("plain", "joined")}, "accuracy", "validation") == []
