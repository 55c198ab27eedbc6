"""The task of names: kinds by `ast`, stand-ins for names, splits; and a run of the variants that learn alone."""

from __future__ import annotations

import email
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForTokenClassification, EvalPrediction

import fastmux
from training.arguments import parse
from training.features import encode_tokens
from training.metrics import token_accuracy
from training.recipe import read_recipe
from training.tasks.names import KINDS, NO_LABEL, STAND_INS, WORDS, NamesTask, is_name, labelled_words, passages
from training.tokenization import train_tokenizer
from training.train import main

SOURCE = """\
import os.path
from json import loads as read

LIMIT = 3


class Shelf:
    pass


def fill(shelf, *books, size=LIMIT, **rest):
    # a comment names nothing
    total = size + 1
    for book in books:
        shelf.row.put(read(book), width=total)
    def inner():
        nonlocal total
        total = len(rest)
    return os.getcwd(), Shelf(), fill, f"{total:>{size}}", missing


größe = "ß"; fill(größe, LIMIT)
"""


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("os", ["", "module"]),
        ("path", [""]),
        ("read", ["", "imported"]),
        ("LIMIT", ["global", "global", "global"]),
        ("Shelf", ["", "class"]),
        ("fill", ["", "function", "function"]),
        ("shelf", ["parameter", "parameter"]),
        ("books", ["parameter", "parameter"]),
        ("rest", ["parameter", "parameter"]),
        ("total", ["local", "local", "", "local"]),
        ("book", ["local", "local"]),
        ("row", ["attribute"]),
        ("put", ["method"]),
        ("width", ["keyword argument"]),
        ("len", ["builtin"]),
        ("missing", ["global"]),
        ("größe", ["global", "global"]),
        ("return", [""]),
    ],
)
def test_kinds_of_names(name, kinds):
    found = [tag for word, tag in labelled_words(SOURCE) if word == name]
    assert ["" if tag == NO_LABEL else KINDS[tag] for tag in found] == kinds


def test_words_keep_nothing_of_strings_numbers_and_comments():
    words = [word for word, _ in labelled_words(SOURCE)]
    assert "comment" not in words and "3" not in words and "0" in words
    assert words.count('"') == 2  # an f-string is one mark, as it is on every version of Python
    assert words.count("→") == words.count("←") == 4
    assert labelled_words("def broken(:\n") == labelled_words("x = '\0'\n") == []
    assert labelled_words("x\x0cy = 1\n") == []
    assert [word for word, _ in labelled_words("\x0cdef f(a):\n    return a\n")][:4] == ["def", "f", "(", "a"]


def test_a_name_has_the_same_stand_in_everywhere_in_a_passage():
    words = [("self", 0), (".", NO_LABEL)] * WORDS + [("if", NO_LABEL)]
    first, second = passages(words, random.Random(0))
    for found, tags in (first, second):
        assert len(found) == len(tags) == WORDS
        assert set(found[1::2]) == {"."} and len(set(found[::2])) == 1
        assert is_name(found[0]) and found[0] != "self"
    assert first[0][0] != second[0][0]
    assert not list(passages([("if", NO_LABEL)] * WORDS, random.Random(0)))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A small package: some modules of the standard library."""
    root = tmp_path_factory.mktemp("library")
    shutil.copytree(Path(email.__file__).parent, root / "email")
    return root


def test_the_task(library, tmp_path):
    data, again = (NamesTask().load(str(library)) for _ in range(2))
    train, validation = data.train, data.evaluation["validation"]
    assert data.labels == KINDS and len(train) > 300 and len(validation) > 20
    assert train["tokens"][:] == again.train["tokens"][:] and data.text == again.text
    for rows in (train, validation):
        assert all(len(words) == len(tags) == WORDS for words, tags in zip(rows["tokens"], rows["tags"], strict=True))
    counts = np.bincount([tag for tags in train["tags"] for tag in tags if tag != NO_LABEL], minlength=len(KINDS))
    assert counts.min() > 0
    # A passage fills a row of the recipe, and next to none is cut.
    recipe = read_recipe("names")
    tokenizer = train_tokenizer(data.text, recipe.vocab_size, recipe.max_length)
    assert sum(encode_tokens(tokenizer, train, recipe.max_length)["cut"]) < 0.02 * len(train)
    assert len(STAND_INS) >= WORDS and all(is_name(word) for word in STAND_INS)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "small.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="too little source for two splits: 1 files, 0 passages"):
        NamesTask().load(str(tmp_path))


def test_words_that_were_cut_count_as_wrong():
    labels = np.array([[1, -100, 2], [0, -100, -100]])
    rows = Dataset.from_dict({"missed": [[], [3, -100]]})
    right = token_accuracy(EvalPrediction(labels, labels), rows)
    assert right == {"accuracy": 0.75}
    assert token_accuracy(EvalPrediction(np.zeros_like(labels), labels), rows) == {"accuracy": 0.25}


def test_a_run_of_the_variants_that_learn_alone(library, tmp_path, capsys):
    sizes = "--hidden_size 32 --num_heads 2 --num_layers 3 --intermediate_size 48 --narrow_size 16 --max_length 32"
    few = "--max_steps 2 --task_rows 8 --num_instances 2 --throughput_seconds 0.2 --use_cpu --disable_tqdm true"
    folder = tmp_path / "run"
    variants = ["plain", "shallow", "narrow", "joined"]
    arguments = ["--task", "names", "--data_dir", str(library), "--output_dir", str(folder), "--variants", *variants]
    main([*arguments, *sizes.split(), *few.split()])
    report = json.loads((folder / "metrics.json").read_text())
    printed = capsys.readouterr().out
    limits = {"plain": 1.0, "shallow": 3 / 2, "narrow": 4.0, "joined": 3 * 32 / (32 + 2 * 17)}
    for name in variants:
        found = report["variants"][name]
        assert list(found["stages"]) == ["task"] and found["stages"]["task"]["steps"] == 2
        assert found["retrieval_accuracy"] is None and found["groupings"] == 1
        assert found["limit"] == pytest.approx(limits[name])
        assert 0 < found["scores"]["validation"]["accuracy"]["mean"] < 1
        line = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert line.split()[-1] == f"{limits[name]:.2f}"
    shallow, narrow = (
        AutoModelForTokenClassification.from_pretrained(folder / name / "task/model").config for name in variants[1:3]
    )
    assert (shallow.num_hidden_layers, shallow.hidden_size) == (2, 32)
    assert (narrow.num_hidden_layers, narrow.hidden_size, narrow.intermediate_size) == (3, 16, 24)
    joined = fastmux.JoinedForTokenClassification.from_pretrained(folder / "joined/task/model").config
    assert (joined.num_instances, joined.join, joined.row_layers, joined.last_layers) == (2, "positions", 1, 0)
    assert joined.id2label == dict(enumerate(KINDS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["shallow", "--shallow_layers", "4"],
            "shallow_layers must be below num_layers=4 .* shallow, got 4",
        ),
        (["narrow", "--narrow_size", "64"], "narrow_size must be below hidden_size=64 for the variant narrow, got 64"),
        (["narrow", "--narrow_size", "30"], "narrow_size=30 must be a multiple of num_heads=4"),
        (["joined", "--joined_row_layers", "5"], "joined_row_layers must be below num_layers=4 for the variant joined"),
        (["joined", "--joined_row_layers", "-1"], "joined_row_layers must be at least 0, got -1"),
        (["shallow", "--encoder", "bert-base-uncased"], "shallow is trained from scratch, --encoder bert-base-uncased"),
    ],
)
def test_rivals_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(["--task", "names", "--variants", "plain", *arguments])
